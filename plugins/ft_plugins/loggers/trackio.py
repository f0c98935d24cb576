"""Trackio: into a local data base (``TRACKIO_DIR``, or in the Hugging Face cache), or into a Space.

Nothing leaves the machine without ``trackio_space_id`` or one of trackio's own variables (``TRACKIO_SPACE_ID``,
``TRACKIO_SERVER_URL``). ``trackio show`` opens the board.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft_hookspecs import PluginOptions, Run, StashKey, hookimpl
from ft_plugins.loggers._rows import points
from ft_plugins.loggers._trackers import run_name, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

ft_requires: Final = {"trackio": "pip install 'ft-framework[trackio]'"}

TRACKER: Final = StashKey[Any]("trackio: the open run")


class TrackioOptions(PluginOptions):
    """Where to."""

    trackio_space_id: str | None = Field(default=None, description="Hugging Face Space to report to. Unset: none.")
    trackio_bucket_id: str | None = Field(default=None, description="Hugging Face bucket that keeps that Space's data.")


@hookimpl
def ft_options() -> type[PluginOptions]:
    return TrackioOptions


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    if TRACKER not in run.stash:
        run.stash[TRACKER] = _open(run)
    run.stash[TRACKER].log(points(row), step=row["step"])


@hookimpl
def ft_run_finished(run: Run) -> None:
    _close(run)


@hookimpl
def ft_run_failed(run: Run) -> None:
    _close(run)


def _open(run: Run) -> Any:
    import trackio

    options = run.plan.of(TrackioOptions)
    return trackio.init(
        project=run.plan.get("project") or os.environ.get("TRACKIO_PROJECT") or "ft",
        name=run_name(run),
        config=settings(run),
        space_id=options.trackio_space_id,
        bucket_id=options.trackio_bucket_id,
        resume="allow" if run.resumed_from else "never",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )


def _close(run: Run) -> None:
    if TRACKER in run.stash:
        run.stash[TRACKER].finish()
