"""``loss.png`` in the output folder: the loss as logged and smoothed, and the evaluation loss beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ft.files import ROWS
from ft_hookspecs import Run, StashKey, hookimpl
from ft_plugins.loggers._rows import rows_before

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

ft_requires: Final = {"matplotlib": "pip install 'ft-framework[plot]'"}

SMOOTHING: Final = 0.9  # share of the mean so far in each smoothed point
POINTS: Final = StashKey[list[dict[str, Any]]]("plot_loss: the rows of this process")


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    if POINTS not in run.stash:
        run.stash[POINTS] = []
    run.stash[POINTS].append(dict(row))


@hookimpl
def ft_run_finished(run: Run) -> None:
    _draw(run)


@hookimpl
def ft_run_failed(run: Run) -> None:
    """Draw what there is: the curve often shows why."""
    _draw(run)


def _draw(run: Run) -> None:
    rows = [*_earlier(run), *run.stash.get(POINTS, [])]
    train = _series(rows, "train", "loss")
    evaluated = _series(rows, "eval", "eval_loss")
    if train or evaluated:
        figure(train, evaluated).savefig(run.output_dir / "loss.png", dpi=120)


def _earlier(run: Run) -> Iterator[dict[str, Any]]:
    """The rows of a resumed run from before it was resumed, where ``metrics.jsonl`` has them."""
    step = run.resumed_step
    return (row for _, row in rows_before(run.output_dir / ROWS, -1 if step is None else step))


def _series(rows: Iterable[Mapping[str, Any]], event: str, name: str) -> list[tuple[int, float]]:
    """``(step, value)`` of the finite values; what was not finite leaves a gap in steps."""
    values = ((row["step"], row.get(name)) for row in rows if row["event"] == event)
    return [(step, float(value)) for step, value in values if value is not None and math.isfinite(value)]


def figure(train: Sequence[tuple[int, float]], evaluated: Sequence[tuple[int, float]]) -> Figure:
    """The picture. It is made without pyplot, so it needs no display and leaves no global state."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 5), layout="constrained")
    axes = picture.add_subplot(xlabel="step", ylabel="loss")
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, label="loss")
        axes.plot(steps, smooth(losses), color="tab:blue", label="loss, smoothed")
    if evaluated:
        axes.plot(*zip(*evaluated, strict=True), "o-", color="tab:orange", label="evaluation loss")
    axes.grid(alpha=0.3)
    axes.legend()
    return picture


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving mean, divided by its weight so far so that it does not start near zero (Adam's correction)."""
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed.append(mean / (1 - SMOOTHING**count))
    return smoothed
