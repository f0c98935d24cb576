"""An estimate in words: its terms, and what to do when it is more than there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ft.estimate.terms import peak, terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft.estimate.devices import DeviceMemory
    from ft_hookspecs import Estimate

USABLE: Final = 0.92
"""The part of a device's memory that a run can fill: the rest is PyTorch's context, and gaps between blocks."""
REMEDIES: Final = 3


def describe(estimate: Estimate, room: DeviceMemory) -> dict[str, Any]:
    """The estimate as JSON can hold it; bytes are whole numbers."""
    return {
        "terms": [{"name": term.name, "bytes": round(term.bytes), "why": term.why} for term in terms(estimate)],
        "batch": batch(estimate),
        "peak": round(peak(estimate)),
        "available": room.bytes,
        "device": room.name,
        "checkpointing": estimate.checkpointing,
        "notes": list(estimate.notes),
        "warning": warning(estimate, room),
    }


def batch(estimate: Estimate) -> str:
    """The batch that the estimate is of, and whether there will be one."""
    if estimate.measured:
        return f"for the longest batch, {estimate.tokens:,} tokens"
    return f"at most: if each sample were as long as cutoff_len, {estimate.longest:,} tokens"


def fits(estimate: Estimate, room: DeviceMemory) -> bool:
    """Whether the largest moment fits the device."""
    return peak(estimate) <= room.bytes * USABLE


def warning(estimate: Estimate, room: DeviceMemory) -> str | None:
    """What to say when the run will probably not fit, with the memory that each remedy would take."""
    if fits(estimate, room):
        return None
    found = sorted(_remedies(estimate, room), key=lambda remedy: remedy[1] > room.bytes * USABLE)
    said = [f"{words} ({gigabytes(size)})" for words, size in found[:REMEDIES]]
    if found[0][1] > room.bytes * USABLE:
        said.append("several of them, a smaller model, or a device with more memory")
    return (
        f"memory: {gigabytes(peak(estimate))} estimated ({batch(estimate)}), {room.name} has {gigabytes(room.bytes)}. "
        f"What would help: {'; '.join(said)}"
    )


def _remedies(estimate: Estimate, room: DeviceMemory) -> Iterator[tuple[str, float]]:
    """Changes of the configuration, each with the peak that it leads to; those that cost least first."""
    e = estimate
    if (samples := e.tokens // e.longest) > 1:
        fewer = replace(e, tokens=e.longest)
        yield f"per_device_train_batch_size: 1, and {samples} times gradient_accumulation_steps", peak(fewer)
    if e.checkpointing in ("none", "selective"):
        yield "gradient_checkpointing: full", peak(replace(e, checkpointing="full"))
    if room.is_gpu and e.checkpointing != "offloaded":
        yield "gradient_checkpointing: offloaded", peak(replace(e, checkpointing="offloaded"))
    if not e.packed:
        yield "attention: packed", peak(replace(e, packed=True))
    yield f"cutoff_len: {e.longest // 2}", peak(replace(e, tokens=e.tokens // 2, longest=e.longest // 2))
    if e.trains_matrices:
        frozen = replace(e, trained=0, trains_matrices=False, trains_head=False)
        yield "finetuning_type: lora", peak(frozen)
    elif e.matrix_bytes is None:
        yield "quantization_bit: 4", peak(replace(e, matrix_bytes=0.5625))


def gigabytes(size: float) -> str:
    """``1.24 GB``, of 10⁹ bytes."""
    return f"{size / 1e9:.2f} GB"
