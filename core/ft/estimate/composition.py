"""From a plan to an :class:`~ft_hookspecs.Estimate`: the keys that every run has, then the plugins' corrections."""

from __future__ import annotations

from dataclasses import replace
from heapq import nlargest
from typing import TYPE_CHECKING, Final

from ft.devices import on_gpu, processes
from ft.estimate.shape import UnknownShapeError, read_shape
from ft.estimate.terms import weights
from ft.precision import dtype_name
from ft_hookspecs import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ft.plugins import PluginManager
    from ft_hookspecs import ModelShape, Plan

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
GROUP: Final = 64
"""Weights that share a scale when they are quantised."""
STATES: Final = {
    "ademamix": 3.0,
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "schedule_free_adamw", "schedule_free_radam"), 2.0),
    **dict.fromkeys(("adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_32bit", "lion_32bit", "schedule_free_sgd"), 1.0),
    **dict.fromkeys(("sgd", "adafactor"), 0.0),
}  # fmt: skip
"""Numbers of optimizer state for each parameter, in the parameter's format (Adafactor's rows and columns are few)."""
BYTE_STATES: Final = {
    "ademamix_8bit": 3.0, "adamw_bnb_8bit": 2.0, "adamw_8bit": 2.0, "lion_8bit": 1.0, "rmsprop_bnb_8bit": 1.0,
}  # fmt: skip
"""Bytes of state where each number is one byte; those of ``paged_`` names lie in the host's memory."""
MODEL_KEYS: Final = ("ref_model", "reward_model")
SHORT_ON_CPU: Final = 512
"""Up to this length, packed bf16 attention on a CPU computes and keeps fp32 (``ft.training.attention``)."""


def estimate_or_note(
    plan: Plan, plugins: PluginManager, path: Path | None = None, lengths: Sequence[int] = ()
) -> Estimate | str:
    """:func:`estimate_memory`, or why there is none."""
    try:
        return estimate_memory(plan, plugins, path, lengths)
    except UnknownShapeError as error:
        return f"memory is not estimated: {error}"


def estimate_memory(
    plan: Plan, plugins: PluginManager, path: Path | None = None, lengths: Sequence[int] = ()
) -> Estimate:
    """The estimate of a run.

    Args:
        plan: what to do.
        plugins: who does it; those that implement ``ft_estimate`` correct what the keys alone say.
        path: the model's folder or GGUF file, if it has been found already.
        lengths: tokens of each sample, if they have been counted already; else each may be as long as ``cutoff_len``.

    Raises:
        UnknownShapeError: the model is not on this machine, or its files do not say how large it is.
    """
    estimate = with_lengths(plan, from_keys(plan, _shape(plan, plugins, path)), lengths)
    estimate = replace(estimate, held=dict(_other_models(plan, plugins, estimate)))
    if plugins.implementers("ft_create_optimizer"):
        estimate = replace(estimate, state_bytes=None)  # who makes the optimizer says what it keeps
    for info in plugins.implementers("ft_estimate"):
        estimate = plugins.call(info, "ft_estimate", plan=plan, estimate=estimate)
    return replace(estimate, notes=(*estimate.notes, *_unknown(plan, estimate)))


def _shape(plan: Plan, plugins: PluginManager, path: Path | None, key: str = "model_name_or_path") -> ModelShape:
    path = path or plugins.hook.ft_locate_model(plan=plan, name=plan.get(key))
    if path is None:
        raise UnknownShapeError(f"{plan.get(key)} is not on this machine yet")
    return read_shape(path)


def from_keys(plan: Plan, shape: ModelShape) -> Estimate:
    """What the keys that every run has say: frozen weights under nothing that trains, batches at their longest."""
    stored = DTYPE_BYTES[dtype_name(plan, trains_everything=False)]
    trained = 2 if plan.get("pure_bf16") else 4
    bits, longest = plan.get("quantization_bit"), plan.get("cutoff_len", 2048)
    padded = plan.get("attention") == "padded" or plan.get("flash_attn") == "disabled"
    return Estimate(
        shape,
        tokens=plan.get("per_device_train_batch_size", 8) * longest,
        longest=longest,
        measured=bool(plan.get("packing") or plan.get("neat_packing")),  # rows are full, whatever the data
        packed=not padded,
        accumulates=plan.get("gradient_accumulation_steps", 1) > 1,
        weight_bytes=stored,
        matrix_bytes=bits / 8 + 4 / GROUP if bits else shape.matrix_bytes,
        compute_bytes=stored,
        stream_bytes=stored,
        trained_bytes=trained,
        state_bytes=state_bytes(str(plan.get("optim", "adamw_torch_fused")), trained),
    )


def with_lengths(plan: Plan, estimate: Estimate, lengths: Sequence[int]) -> Estimate:
    """Batches as long as the data can make them: the longest samples together. Packed rows are full anyway."""
    if not len(lengths) or estimate.measured:
        return estimate
    longest = nlargest(estimate.tokens // estimate.longest, lengths)
    tokens = sum(longest) if estimate.packed else len(longest) * longest[0]
    short = estimate.packed and not on_gpu(plan) and longest[0] <= SHORT_ON_CPU
    return replace(estimate, tokens=tokens, longest=longest[0], measured=True, attention_bytes=4 if short else None)


def state_bytes(optim: str, trained_bytes: int) -> float | None:
    """Bytes of optimizer state for each parameter that trains; ``None`` for an optimizer that is not known here."""
    if optim.startswith("paged_"):
        return 0.0
    return STATES[optim] * trained_bytes if optim in STATES else BYTE_STATES.get(optim)


def _other_models(plan: Plan, plugins: PluginManager, estimate: Estimate) -> Iterator[tuple[str, float]]:
    """Models beside the one that trains, each whole and in its number format."""
    for key in MODEL_KEYS:
        name = plan.get(key)
        if name and (key != "reward_model" or plan.get("reward_model_type") == "full"):
            shape = _shape(plan, plugins, None, key)
            yield key, weights(replace(estimate, shape=shape, matrix_bytes=shape.matrix_bytes))


def _unknown(plan: Plan, estimate: Estimate) -> Iterator[str]:
    """What no plugin has said, so that it is not part of the sum."""
    if estimate.trained is None:
        yield f"how many parameters {plan.get('finetuning_type')} trains is not known: their memory is not counted"
    if estimate.state_bytes is None:
        yield "what the optimizer keeps is not known: its memory is not counted"
    if processes() > 1 and (plan.get("fsdp") or plan.get("deepspeed")):
        yield "what is sharded over processes is counted whole"
