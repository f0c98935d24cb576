"""CPU cores that other programs use too."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from ft.devices import on_gpu

if TYPE_CHECKING:
    from ft_hookspecs import Run

WAIT_POLICY: Final = "OMP_WAIT_POLICY"
ENOUGH: Final = 0.5
"""So much of a core, used by others, keeps a thread from running often enough to be waited for."""


def share_cores(run: Run) -> None:
    """Let threads that wait for each other sleep, where OpenMP makes them spin, if others compute here now.

    A thread that spins for one that does not run takes the core which that one needs: with one other program on two
    cores, a step took four times as long. On idle cores sleeping costs a fifth (docs/log.md), so it is not always done.
    OpenMP reads the policy when torch is loaded: nothing is changed after that, nor where the variable is set already.
    """
    if "torch" in sys.modules or WAIT_POLICY in os.environ or on_gpu(run.plan):
        return
    if (used := used_by_others()) > ENOUGH:
        os.environ[WAIT_POLICY] = "PASSIVE"
        run.decide(f"threads sleep while they wait, because other programs use {used:.1f} CPU cores")


def used_by_others(seconds: float = 0.2) -> float:
    """How many cores are busy while this process sleeps."""
    import psutil

    share: float = psutil.cpu_percent(interval=seconds)
    return share / 100 * (os.cpu_count() or 1)
