"""SwanLab: in its cloud, or without network in ``swanlab_logdir`` (``swanlab_mode: local`` or ``offline``)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ft.options import SECRET
from ft_hookspecs import PluginOptions, Problem, Run, StashKey, hookimpl
from ft_plugins.loggers._rows import points
from ft_plugins.loggers._trackers import run_name, settings, unasked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Plan

ft_requires: Final = {"swanlab": "pip install 'ft-framework[swanlab]'"}

TRACKER: Final = StashKey[Any]("swanlab: the open run")


class SwanlabOptions(PluginOptions):
    """Where to, and as whom."""

    swanlab_project: str | None = Field(default="llamafactory", description="Project, where `project` names none.")
    swanlab_workspace: str | None = Field(default=None, description="Workspace. Unset: the user's own.")
    swanlab_run_name: str | None = Field(default=None, description="Name of the run. Unset: `run_name`.")
    swanlab_mode: Literal["cloud", "local", "offline", "disabled"] = Field(
        default="cloud",
        description="Report to the cloud, a local board, files for `swanlab sync`, or nowhere.",
    )
    swanlab_api_key: str | None = Field(
        default=None, description="Key for the cloud. Unset: that of `swanlab login`.", json_schema_extra=SECRET
    )
    swanlab_logdir: str | None = Field(
        default=None, description="Folder of SwanLab's files. Unset: `swanlog` in `output_dir`."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return SwanlabOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    if plan.of(SwanlabOptions).swanlab_mode == "local" and find_spec("swanboard") is None:
        yield Problem(
            "swanlab_mode: local needs the package swanboard",
            remedy="pip install 'swanlab[dashboard]', or set swanlab_mode: offline",
            keys=("swanlab_mode",),
            exit_code=5,
        )


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    if TRACKER not in run.stash:
        with unasked():
            run.stash[TRACKER] = _open(run)
    run.stash[TRACKER].log(points(row), step=row["step"])


@hookimpl
def ft_run_finished(run: Run) -> None:
    _close(run, "success")


@hookimpl
def ft_run_failed(run: Run) -> None:
    _close(run, "crashed")


def _open(run: Run) -> Any:
    """A run of swanlab without what it collects by itself: the command line and the output may hold secrets."""
    import swanlab

    options = run.plan.of(SwanlabOptions)
    cloud = options.swanlab_mode == "cloud"
    if cloud and options.swanlab_api_key:
        swanlab.login(api_key=options.swanlab_api_key)
    quiet = swanlab.Settings(
        probe=dict.fromkeys(("hardware", "runtime", "requirements", "git", "monitor"), False),
        terminal={"proxy_type": "none"},
    )
    return swanlab.init(
        project=run.plan.get("project") or options.swanlab_project,
        workspace=options.swanlab_workspace,
        name=options.swanlab_run_name or run_name(run),
        mode="online" if cloud else options.swanlab_mode,
        log_dir=options.swanlab_logdir or os.environ.get("SWANLAB_LOGDIR") or str(run.output_dir / "swanlog"),
        config=settings(run),
        settings=quiet,
    )


def _close(run: Run, state: str) -> None:
    if TRACKER in run.stash:
        run.stash[TRACKER].finish(state)
