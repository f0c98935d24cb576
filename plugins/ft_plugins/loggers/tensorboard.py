"""Scalars for TensorBoard, in ``output_dir/runs``: ``train/loss``, ``eval/loss``, ``final/…``.

Points of an earlier run in the same folder, and those after the step a resumed run goes on from, are hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ft_hookspecs import Run, StashKey, hookimpl
from ft_plugins.loggers._rows import points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.tensorboard import SummaryWriter

ft_requires: Final = {"tensorboard": "pip install 'ft-framework[tensorboard]'"}

WRITER: Final = StashKey["SummaryWriter"]("tensorboard: the open writer")


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    """Add the row's numbers, and flush: a run that is killed keeps its curve."""
    writer = _writer(run)
    for name, value in points(row).items():
        writer.add_scalar(name, value, row["step"])
    writer.flush()


@hookimpl
def ft_run_finished(run: Run) -> None:
    _close(run)


@hookimpl
def ft_run_failed(run: Run) -> None:
    _close(run)


def _writer(run: Run) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    if WRITER not in run.stash:
        step = run.resumed_step
        run.stash[WRITER] = SummaryWriter(str(run.output_dir / "runs"), purge_step=0 if step is None else step + 1)
    return run.stash[WRITER]


def _close(run: Run) -> None:
    if WRITER in run.stash:
        run.stash[WRITER].close()
