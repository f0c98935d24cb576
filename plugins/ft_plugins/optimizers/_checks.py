"""What the pages of optimizers refuse while planning, each for the same reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.devices import processes, sharding_problems
from ft.quantization import quantizer
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ft_hookspecs import Plan

ADAMW: Final = frozenset({"adamw_torch"})
"""What ``optim`` may say beside an optimizer that is a variant of AdamW."""


def optim_problems(plan: Plan, name: str, allowed: Collection[str] = ADAMW) -> Iterator[Problem]:
    """``optim`` asks for another optimizer, or ``optim_args`` for what nobody reads."""
    if plan.is_set("optim") and plan.get("optim") not in allowed:
        yield Problem(
            f"{name} and optim: {plan.get('optim')} are two optimizers",
            why=f"{name} makes the optimizer itself",
            remedy=f"take optim out, or set it to {' or '.join(sorted(allowed))}",
            keys=("optim",),
        )
    for key in ("optim_args", "optim_target_modules"):
        if plan.get(key):
            yield Problem(f"{key} has no effect with {name}", remedy=f"use the keys of {name}", keys=(key,))


def whole_weights(plan: Plan, name: str, why: str, *, adapters: bool = False) -> Iterator[Problem]:
    """It looks at weight matrices as they are: not at shards, not at quantised ones, mostly not at adapters."""
    if (adapter := plan.plugin("adapters")) and adapter.name in ("lora", "oft") and not adapters:
        yield Problem(
            f"{name} with finetuning_type: {adapter.name}",
            why=f"{why}; the matrices of {adapter.name} are small as they are",
            remedy="set finetuning_type: full or freeze, or leave the optimizer out",
            keys=(f"use_{name}", "finetuning_type"),
        )
    if (found := quantizer(plan)) and not adapters:
        yield Problem(
            f"{name} with weights quantised by {found.name}",
            why="it trains the weights themselves, and quantised ones have no gradient",
            remedy="take quantization_bit out",
            keys=(f"use_{name}", "quantization_bit"),
        )
    remedy = "or use an optimizer that steps each weight by itself, such as adamw_torch"
    yield from sharding_problems(plan, name, f"{why}; sharding cuts them", remedy, (f"use_{name}",))


def within_backward(plan: Plan, key: str) -> Iterator[Problem]:
    """What cannot be when each weight is stepped as soon as its gradient is there."""
    if plan.get("gradient_accumulation_steps", 1) != 1:
        yield Problem(
            f"{key} with gradient_accumulation_steps: {plan.get('gradient_accumulation_steps')}",
            why="each gradient is used and freed at once, so that none is left to add to",
            remedy="set gradient_accumulation_steps: 1",
            keys=("gradient_accumulation_steps", key),
        )
    if plan.is_set("max_grad_norm") and plan.get("max_grad_norm"):
        yield Problem(
            f"{key} with max_grad_norm",
            why="the norm of all gradients is known only when the first have been used already",
            remedy="set max_grad_norm: 0",
            keys=("max_grad_norm", key),
        )
    if plan.get("fp16"):
        yield Problem(
            f"{key} with fp16",
            why="the loss is scaled for fp16, and its gradients are scaled back only before the optimizer steps",
            remedy="use bf16: true",
            keys=("fp16", key),
        )
    yield from one_process(key, "gradients are used before the processes have exchanged them")


def one_process(key: str, why: str) -> Iterator[Problem]:
    """It runs in one process only."""
    if processes() > 1:
        yield Problem(
            f"{key} with {processes()} processes",
            why=why,
            remedy="start one process, or use an optimizer without it",
            keys=(key,),
        )
