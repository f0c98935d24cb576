"""What several accelerators refuse while planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.devices import devices
from ft.quantization import quantizer
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft.devices import Devices
    from ft_hookspecs import Plan


def on_gpu(plan: Plan, machine: Devices | None = None) -> bool:
    """Whether the run computes on an NVIDIA device."""
    return not plan.get("use_cpu") and (machine or devices()).cuda > 0


def needs_gpu(plan: Plan, what: str, why: str, remedy: str, key: str) -> Iterator[Problem]:
    """``what`` does not run on a CPU."""
    if not on_gpu(plan):
        place = "use_cpu asks for the CPU" if plan.get("use_cpu") else f"this run computes on: {devices().description}"
        yield Problem(f"{what} needs an NVIDIA GPU", f"{why}; {place}", remedy, (key, "use_cpu"), 5)


def apart(plan: Plan, name: str, others: Mapping[str, str], keys: tuple[str, ...] = ()) -> Iterator[Problem]:
    """The accelerators that ``name`` cannot be combined with, each with the reason."""
    for other, why in others.items():
        if plan.has("accelerators", other):
            yield Problem(
                f"{name} cannot be combined with {other}", why, f"keep one: --no-plugin {other}", (*keys, "plugins")
            )


def sharded(plan: Plan, name: str, why: str) -> Iterator[Problem]:
    """Weights that are spread over processes."""
    for key in ("deepspeed", "fsdp"):
        if plan.get(key):
            yield Problem(f"{name} cannot be combined with {key}", why, f"leave {key} or {name} out", (key,))


def lora_only(plan: Plan, name: str, *, why: str) -> Iterator[Problem]:
    """Kernels for plain LoRA layers have nothing to do elsewhere, and do not compute what is added to them."""
    adapter = plan.plugin("adapters")
    if adapter is not None and adapter.name != "lora":
        yield Problem(
            f"{name} cannot be combined with finetuning_type: {adapter.name}",
            why=why,
            remedy=f"set finetuning_type: lora, or --no-plugin {name}",
            keys=("finetuning_type",),
        )
    for key, added in (("use_dora", "the norm of each row"), ("lora_dropout", "dropout before the update")):
        if plan.get(key):
            yield Problem(
                f"{name} cannot be combined with {key}: {str(plan.get(key)).lower()}",
                why=f"its kernels do not compute {added}",
                remedy=f"take {key} out, or --no-plugin {name}",
                keys=(key,),
            )


def quantised(plan: Plan, name: str, *, why: str, allowed: str = "") -> Iterator[Problem]:
    """Weights that the kernels do not read; ``allowed`` is a quantizer whose weights they do."""
    found = quantizer(plan)
    if found is not None and found.name != allowed:
        yield Problem(
            f"{name} cannot be combined with the quantizer {found.name}",
            why=why,
            remedy=f"leave quantisation out, or --no-plugin {name}",
            keys=("quantization_method", "quantization_bit"),
        )
