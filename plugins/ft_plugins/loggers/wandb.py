"""Weights & Biases: ``WANDB_MODE=offline`` writes into ``output_dir/wandb`` without network, for ``wandb sync``.

Read from the environment, as wandb itself does: ``WANDB_API_KEY``, ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ft_hookspecs import Run, StashKey, hookimpl
from ft_plugins.loggers._rows import points
from ft_plugins.loggers._trackers import run_name, settings, unasked

if TYPE_CHECKING:
    from collections.abc import Mapping

ft_requires: Final = {"wandb": "pip install 'ft-framework[wandb]'"}

TRACKER: Final = StashKey[Any]("wandb: the open run")


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    if TRACKER not in run.stash:
        with unasked():
            run.stash[TRACKER] = _open(run)
    run.stash[TRACKER].log(points(row), step=row["step"])


@hookimpl
def ft_run_finished(run: Run) -> None:
    _close(run, exit_code=0)


@hookimpl
def ft_run_failed(run: Run) -> None:
    _close(run, exit_code=1)


def _open(run: Run) -> Any:
    """A run of wandb without what it collects by itself: the command line and the output may hold secrets."""
    import wandb

    quiet = wandb.Settings(
        console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True, silent=True
    )
    return wandb.init(
        project=run.plan.get("project"),
        name=run_name(run),
        dir=str(run.output_dir),
        config=settings(run),
        settings=quiet,
        reinit="create_new",
    )


def _close(run: Run, exit_code: int) -> None:
    if TRACKER in run.stash:
        run.stash[TRACKER].finish(exit_code=exit_code)
