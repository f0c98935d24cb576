"""What adapters do to a run's memory, from the shapes of the model's weights."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Final

from ft.devices import on_gpu
from ft.options import ModelOptions
from ft_plugins.adapters import _targets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ft_hookspecs import Estimate, Plan

EMBEDDINGS: Final = "embed_tokens"


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


def beside(
    plan: Plan, estimate: Estimate, targets: Sequence[str], size: Callable[[int, int], int], dropout: float = 0
) -> Estimate:
    """An adapter beside each targeted matrix, of ``size(outputs, inputs)`` parameters, and copies of what trains whole.

    A mask of dropout takes one byte on a GPU; a CPU keeps factors in the inputs' format.
    """
    shape = estimate.shape
    names = tuple(shape.matrices if _targets.ALL in targets else _targets.meant(shape.matrices, targets))
    further = [*(plan.get("additional_target") or ()), *_ends_that_grow(plan)]
    copied = sum(prod(shape.tensors[name]) for name in _inside(shape.tensors, further))
    added = copied + sum(size(*shape.matrices[name]) for name in names)
    mask = (1 if on_gpu(plan) else estimate.trained_bytes) if dropout else 0
    return replace(
        estimate,
        trained=added,
        added=added,
        copied=copied,
        adapted=names,
        mask_bytes=mask,
        trains_head=_trains_head(estimate, further),
    )


def layers(
    plan: Plan, estimate: Estimate, numbers: Collection[int], parts: Sequence[str], further: Sequence[str]
) -> Estimate:
    """Some layers, or ``parts`` of them, and ``further`` modules train as they are.

    All layers above what trains keep activations.
    """
    further = [*further, *_ends_that_grow(plan)]
    weights = estimate.shape.tensors
    chosen = _inside(weights, [f"layers.{number}" for number in numbers])
    chosen = chosen if _targets.ALL in parts else _inside(chosen, parts)
    lowest = 0 if EMBEDDINGS in further else min(numbers)
    return replace(
        estimate,
        trained=sum(prod(weights[name]) for name in chosen | _inside(weights, further)),
        trains_matrices=True,
        trains_head=_trains_head(estimate, further),
        active=estimate.shape.layers - lowest,
    )


def _ends_that_grow(plan: Plan) -> list[str]:
    """Embeddings and head, which train as a whole where tokens are added."""
    keys = ("add_tokens", "add_special_tokens", "new_special_tokens_config")
    return [EMBEDDINGS, _targets.HEAD] if any(plan.get(key) for key in keys) else []


def _trains_head(estimate: Estimate, modules: Sequence[str]) -> bool:
    return _targets.HEAD in modules or (estimate.shape.tied and EMBEDDINGS in modules)


def _inside(weights: Iterable[str], modules: Sequence[str]) -> set[str]:
    """The weights that lie in modules of these names."""
    parts = [f".{name}." for name in modules]
    return {name for name in weights if any(part in f".{name}" for part in parts)}
