"""What optimizers keep for each weight, from the shapes of the model's matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ft_hookspecs import Estimate

ADAM: Final = 2
"""Numbers that Adam keeps for each weight: the two moments."""


def with_states(estimate: Estimate, numbers: Mapping[str, float]) -> Estimate:
    """The estimate with ``numbers`` of state for each of these matrices of the layers, and Adam's for all else.

    Where only some layers train, as many of the numbers as these layers are of all.
    """
    matrices = estimate.shape.matrices
    own = (estimate.trained or 0) - estimate.added
    if not own:
        return replace(estimate, state_bytes=float(ADAM * estimate.trained_bytes))
    share = min(1.0, own / sum(out * into for out, into in matrices.values()))
    spared = sum(ADAM * matrices[name][0] * matrices[name][1] - kept for name, kept in numbers.items())
    return replace(estimate, state_bytes=(ADAM - share * spared / own) * estimate.trained_bytes)


def projected(estimate: Estimate, targets: Sequence[str], rank: int, side: str, moments: int = ADAM) -> Estimate:
    """Weights (m, n) whose gradients are projected to ``rank`` dimensions of one side: moments of these, and the basis.

    ``side`` is as the libraries name it: ``std`` projects the larger side away (m·r and n·r numbers for m ≥ n),
    ``reverse_std`` the smaller, ``right`` n, ``left`` m, ``full`` both.
    """
    chosen = {
        name: size
        for name, size in estimate.shape.matrices.items()
        if any(target == "all" or f".{target}." in f".{name}." for target in targets)
    }
    return with_states(estimate, {name: _kept(*size, rank, side, moments) for name, size in chosen.items()})


def freed(estimate: Estimate) -> Estimate:
    """Of a step within the backward pass, which frees each gradient at once."""
    note = "gradients are freed one by one in the backward pass: they take less than is counted"
    return replace(estimate, notes=(*estimate.notes, note))


def _kept(m: int, n: int, rank: int, side: str, moments: int) -> float:
    if side == "full":
        return moments * rank * rank + rank * (m + n)
    stays = {"std": max(m, n), "reverse_std": min(m, n), "right": m, "left": n}[side]
    return rank * (moments * stays + m + n - stays)
