"""What a check on a GPU is, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Place:
    """Where a check runs: ``cuda`` at full size, or, to try the code of the checks, ``cpu`` at tiny sizes."""

    device: str
    tiny: bool = False


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Args:
        name: unique in its topic.
        run: gives the figures of the row; an ``AssertionError`` says what is wrong, any other error that it failed.
        needs: import names of packages; without one of them the row says ``not installed``.
        seconds: after which its process is killed.
        gpu_only: the code has no part that a CPU could run; a dry run leaves it out.
    """

    name: str
    run: Callable[[Place], Mapping[str, Any]]
    needs: tuple[str, ...] = ()
    seconds: float = 60
    gpu_only: bool = False


def relative(ours: Any, theirs: Any) -> float:
    """The norm of the difference of two tensors, as a share of the second's."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())
