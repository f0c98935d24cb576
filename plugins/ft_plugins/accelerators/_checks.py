"""What several accelerators refuse while planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.devices import on_gpu, place
from ft.quantization import quantizer
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Plan


def needs_gpu(plan: Plan, what: str, why: str, key: str, otherwise: str) -> Iterator[Problem]:
    """``what`` does not run on a CPU; ``otherwise`` is a value of ``key`` that does."""
    if not on_gpu(plan):
        remedy = f"set {key}: {otherwise}" if plan.is_set(key) else f"leave {what} out of the plugins"
        listed = ("plugins",) if what in (plan.get("plugins") or ()) else ()
        why = f"{why}; this run computes on: {place(plan)}"
        yield Problem(f"{what} needs an NVIDIA GPU", why, remedy, (key, *listed, "use_cpu"), 5)


def apart(plan: Plan, name: str, others: Mapping[str, str], keys: tuple[str, ...] = ()) -> Iterator[Problem]:
    """The accelerators that ``name`` cannot be combined with, each with the reason."""
    for other, why in others.items():
        if plan.has("accelerators", other):
            yield Problem(f"{name} cannot be combined with {other}", why, "keep one of the two", (*keys, "plugins"))


def lora_only(plan: Plan, name: str, *, why: str) -> Iterator[Problem]:
    """Kernels for plain LoRA layers have nothing to do elsewhere, and do not compute what is added to them."""
    adapter = plan.plugin("adapters")
    if adapter is not None and adapter.name != "lora":
        yield Problem(
            f"{name} cannot be combined with finetuning_type: {adapter.name}",
            why=why,
            remedy=f"set finetuning_type: lora, or leave {name} out",
            keys=("finetuning_type",),
        )
    for key, added in (("use_dora", "the norm of each row"), ("lora_dropout", "dropout before the update")):
        if plan.get(key):
            yield Problem(
                f"{name} cannot be combined with {key}: {str(plan.get(key)).lower()}",
                why=f"its kernels do not compute {added}",
                remedy=f"take {key} out, or leave {name} out",
                keys=(key,),
            )


def quantised(plan: Plan, name: str, *, why: str, allowed: str = "") -> Iterator[Problem]:
    """Weights that the kernels do not read; ``allowed`` is a quantizer whose weights they do."""
    found = quantizer(plan)
    if found is not None and found.name != allowed:
        yield Problem(
            f"{name} cannot be combined with the quantizer {found.name}",
            why=why,
            remedy=f"leave quantisation out, or leave {name} out",
            keys=("quantization_method", "quantization_bit"),
        )
