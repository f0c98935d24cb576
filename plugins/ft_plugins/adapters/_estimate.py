"""What adapters do to a run's memory, from the shapes of the model's weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ft.devices import devices
from ft.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ft_hookspecs import Estimate, Plan

ALL = "all"


def whole(plan: Plan, estimate: Estimate) -> Estimate:
    """Every parameter trains: weights are loaded in the format that trains, and autocast computes in two bytes."""
    trained = 2 if plan.of(ModelOptions).pure_bf16 else 4
    compute = 2 if plan.get("bf16") or plan.get("fp16") else trained
    return replace(
        estimate,
        trained=estimate.shape.parameters,
        trains_matrices=True,
        trains_head=True,
        weight_bytes=trained,
        stream_bytes=trained,
        compute_bytes=compute,
        attention_bytes=None if compute == 4 else estimate.attention_bytes,
    )


def low_rank(
    plan: Plan, estimate: Estimate, rank: int, targets: Sequence[str], further: Iterable[str] = (), dropout: float = 0
) -> Estimate:
    """Two narrow matrices beside each targeted one, rank · (outputs + inputs) parameters; ``further`` modules train.

    A mask of dropout takes one byte on a GPU; a CPU keeps factors in the inputs' format.
    """
    shape = estimate.shape
    names = tuple(name for name in shape.matrices if ALL in targets or any(_ends(name, end) for end in targets))
    outside = [f"{name}.weight" for name in further]
    copies = sum(
        size[0] * (size[1] if len(size) > 1 else 1)
        for name, size in shape.tensors.items()
        if any(_ends(name, end) for end in outside)
    )
    added = rank * sum(sum(shape.matrices[name]) for name in names) + copies
    on_gpu = devices().cuda and not plan.get("use_cpu")
    mask = (1 if on_gpu else estimate.trained_bytes) if dropout else 0
    return replace(estimate, trained=added, added=added, adapted=names, mask_bytes=mask)


def layers(estimate: Estimate, count: int) -> Estimate:
    """``count`` layers train as they are: the last, or with a minus the first, above which all keep activations."""
    shape = estimate.shape
    inside = sum(out * into for out, into in shape.matrices.values()) // shape.layers
    number = min(abs(count), shape.layers)
    active = number if count > 0 else shape.layers
    return replace(estimate, trained=number * inside, trains_matrices=True, active=active)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
