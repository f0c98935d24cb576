"""Timing of variants against each other: one process, alternating, in CPU-seconds, loss and gradient norm beside."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-3}
NORM_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}


class Clock:
    """CPU and wall seconds from the second optimizer step's begin to the last one's end.

    The first step of each variant is left out: it allocates, and ft's compares the packed path with the padded one.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.begun = (0.0, 0.0)
        self.cpu = self.wall = 0.0

    def begin_step(self) -> None:
        self.steps += 1
        if self.steps == 2:
            self.begun = time.process_time(), time.perf_counter()

    def end_step(self) -> None:
        self.cpu, self.wall = time.process_time() - self.begun[0], time.perf_counter() - self.begun[1]


@dataclass
class Outcome:
    """What one variant did in one round: seconds, the loss and gradient norm of each step."""

    cpu: float
    wall: float
    losses: list[float]
    norms: list[float]


@dataclass
class Comparison:
    """The rounds of every variant; ratios are medians of per-round ratios, because machines drift between rounds."""

    dtype: str
    rounds: dict[str, list[Outcome]] = field(default_factory=dict)

    def measure(
        self, variants: Mapping[str, Callable[[], Outcome]], rounds: int, report: Callable[[str], None]
    ) -> None:
        for number in range(rounds):
            for name, variant in variants.items():
                outcome = variant()
                gc.collect()
                self.rounds.setdefault(name, []).append(outcome)
                report(f"round {number}  {name:12}  {outcome.cpu:7.2f} CPU-s  loss {outcome.losses[-1]:.6f}")

    def ratio(self, name: str, against: str) -> float:
        """How many times faster ``name`` is than ``against``, in CPU-seconds."""
        pairs = zip(self.rounds[against], self.rounds[name], strict=True)
        return statistics.median(base.cpu / own.cpu for base, own in pairs)

    def deviation(self, name: str, against: str) -> tuple[float, float]:
        """Largest relative differences of a step's loss, and of the first step's gradient norm."""
        own, base = self.rounds[name][0], self.rounds[against][0]
        losses = max(abs(a - b) / abs(b) for a, b in zip(own.losses, base.losses, strict=True))
        return losses, abs(own.norms[0] - base.norms[0]) / base.norms[0]

    def rows(self, base: str) -> list[dict[str, Any]]:
        """One row a variant; ``void`` when its loss or gradient norm is not that of ``base``."""
        rows = []
        for name, outcomes in self.rounds.items():
            loss, norm = self.deviation(name, base)
            rows.append(
                {
                    "variant": name,
                    "speed": {against: round(self.ratio(name, against), 3) for against in self.rounds},
                    "loss": outcomes[0].losses[-1],
                    "grad_norm": outcomes[0].norms[0],
                    "loss_deviation": loss,
                    "norm_deviation": norm,
                    "void": loss > LOSS_TOLERANCE[self.dtype] or norm > NORM_TOLERANCE[self.dtype],
                }
            )
        return rows


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    import torch

    packages = ("torch", "transformers", "peft", "trl", "accelerate")
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
