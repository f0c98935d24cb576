"""How the console logger shows a run: a bar on a terminal, one plain line a row elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from ft_plugins.loggers._rows import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.progress import Progress

OWN_FORM: Final = ("loss", "learning_rate", "tokens_per_second")
UNSHOWN: Final = ("grad_norm", "num_input_tokens_seen")  # in metrics.jsonl
TIMINGS: Final = ("_runtime", "_time", "_per_second", "_flos")  # of an evaluation or a run; they stand in metrics.jsonl


class Clock:
    """Steps done and time left; seconds by a monotonic clock.

    The first step of a run (or of its resumption) is left out of the mean: it allocates and compiles.
    """

    def __init__(self) -> None:
        self.step = self.total = 0
        self._first: tuple[int, float] | None = None

    def begin(self, total: int) -> None:
        """Training of ``total`` optimizer steps begins or goes on."""
        self.total = total
        self._first = None

    def tick(self, step: int) -> None:
        """Optimizer step ``step``, counted from 1, is done."""
        self.step = step
        self._first = self._first or (step, time.monotonic())

    @property
    def left(self) -> float | None:
        """Seconds until the last step; ``None`` before two steps are done."""
        if self._first is None or self.step <= self._first[0]:
            return None
        begun, at = self._first
        return (time.monotonic() - at) / (self.step - begun) * (self.total - self.step)


class Display(Protocol):
    """What the hooks of the console logger talk to."""

    def begin(self, step: int, total: int) -> None:
        """Training begins after ``step`` of ``total`` optimizer steps."""

    def advance(self, step: int) -> None:
        """Step ``step`` is done."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Show one row of metrics."""

    def close(self) -> None:
        """Leave the terminal as it was; may be called twice."""


class Lines:
    """One line a row, for files and pipes."""

    def __init__(self) -> None:
        self.clock = Clock()

    def begin(self, step: int, total: int) -> None:
        self.clock.step = step
        self.clock.begin(total)

    def advance(self, step: int) -> None:
        self.clock.tick(step)

    def row(self, row: Mapping[str, Any]) -> None:
        sys.stdout.write(line(row, self.clock) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


class Bar:
    """A bar that moves at every step, under the rows."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.clock = Clock()
        self._progress: Progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[latest]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(),
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, latest="", left="")

    def begin(self, step: int, total: int) -> None:
        self.clock.step = step
        self.clock.begin(total)
        self._progress.update(self._task, total=total, completed=step, visible=True)
        self._progress.start()

    def advance(self, step: int) -> None:
        self.clock.tick(step)
        self._progress.update(self._task, completed=step, left=time_left(self.clock))

    def row(self, row: Mapping[str, Any]) -> None:
        if row["event"] == "train":
            self._progress.update(self._task, latest="  ".join((*loss(row), *speed(row))))
        self._progress.console.print(line(row, self.clock), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def line(row: Mapping[str, Any], clock: Clock) -> str:
    """``step 10/80  loss 1.234  lr 5.0e-04  3,412 tokens/s  2m10s left``."""
    place = f"step {row['step']}/{clock.total}" if clock.total else f"step {row['step']}"
    if row["event"] == "train":
        return "  ".join(part for part in (place, *train_values(row), time_left(clock)) if part)
    return "  ".join((place if row["event"] == "eval" else "final", *other_values(row)))


def train_values(row: Mapping[str, Any]) -> Iterator[str]:
    """Loss, learning rate, what the stage adds (``rewards/margins``), and speed."""
    yield from loss(row)
    if "learning_rate" in row:
        yield f"lr {row['learning_rate']:.1e}"
    yield from other_values(row)
    yield from speed(row)


def loss(row: Mapping[str, Any]) -> Iterator[str]:
    """``loss 1.234``, if it was logged."""
    if "loss" in row:
        yield f"loss {row['loss']:.4g}"


def speed(row: Mapping[str, Any]) -> Iterator[str]:
    """``3,412 tokens/s``, if it was logged."""
    if "tokens_per_second" in row:
        yield f"{row['tokens_per_second']:,.0f} tokens/s"


def other_values(row: Mapping[str, Any]) -> Iterator[str]:
    """Every other number, by its name."""
    for name, value in numbers(row):
        if name not in (*OWN_FORM, *UNSHOWN) and not name.endswith(TIMINGS):
            yield f"{name} {value:.4g}"


def time_left(clock: Clock) -> str:
    """``2m10s left``, or nothing while it is not known."""
    return "" if clock.left is None else f"{duration(clock.left)} left"


def duration(seconds: float) -> str:
    """``45s``, ``2m10s``, ``1h05m``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
