"""Which number formats a run computes in, and what cannot be. Light: planning imports this without torch.

=====================  ==================  =============  =====================================
asked                  frozen weights      what trains    autocast
=====================  ==================  =============  =====================================
nothing, full          -                   float32        no
nothing, adapter       bfloat16 if native  float32        no
``bf16``, full         -                   float32        bfloat16
``bf16``, adapter      bfloat16            float32        no: it would only cast again each step
``fp16``               float16             float32        float16, with loss scaling
``pure_bf16``          bfloat16            bfloat16       no
``dtype``              as asked            float32        as ``bf16`` and ``fp16`` say
=====================  ==================  =============  =====================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.devices import Devices, devices, on_gpu, place
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from ft_hookspecs import Plan


def precision_problems(plan: Plan, machine: Devices | None = None) -> Iterator[Problem]:
    """What the asked number formats cannot be on this machine, or together."""
    asked = [key for key in ("bf16", "fp16", "pure_bf16") if plan.get(key)]
    if len(asked) > 1:
        yield Problem(f"{' and '.join(asked)} cannot both be true", remedy="keep one of them", keys=tuple(asked))
    if plan.get("pure_bf16") and plan.get("dtype", "auto") not in ("auto", "bfloat16"):
        yield Problem(
            f"pure_bf16 contradicts dtype: {plan.get('dtype')}", remedy="remove dtype", keys=("dtype", "pure_bf16")
        )
    machine = machine or devices()
    halves = [key for key, value in (("fp16", True), ("dtype", "float16")) if plan.get(key) == value]
    if halves and not on_gpu(plan, machine):
        yield Problem(
            "fp16 training needs a GPU",
            why=f"this run computes on: {place(plan, machine)}",
            remedy="use bf16: true, or leave the format out: ft then chooses one that the device computes well",
            keys=tuple(halves),
        )


def choose_dtype(plan: Plan, trains_everything: bool, machine: Devices | None = None) -> tuple[torch.dtype, str]:
    """The dtype to load the weights in, and the reason.

    Args:
        plan: its ``bf16``, ``fp16``, ``pure_bf16`` and ``dtype`` are read.
        trains_everything: whether the loaded weights train themselves, or are frozen under an adapter.
        machine: the devices, if known already.
    """
    import torch

    name, reason = _choose(plan, trains_everything, machine or devices())
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype, reason


def dtype_name(plan: Plan, trains_everything: bool) -> str:
    """The name of the dtype that :func:`choose_dtype` gives; imports no torch."""
    return _choose(plan, trains_everything, devices())[0]


def _choose(plan: Plan, trains_everything: bool, machine: Devices) -> tuple[str, str]:
    if plan.get("pure_bf16"):
        return "bfloat16", "pure_bf16 was asked for"
    if plan.get("dtype", "auto") != "auto":
        return str(plan.get("dtype")), "dtype was asked for"
    if trains_everything:
        return "float32", "what trains is kept in fp32" + (" under autocast" if uses_autocast(plan) else "")
    if plan.get("fp16"):
        return "float16", "fp16 was asked for, and the base is frozen"
    if plan.get("bf16"):
        return "bfloat16", "bf16 was asked for, and the base is frozen"
    if machine.bf16 and not plan.is_set("bf16"):
        return "bfloat16", f"the base is frozen and the device computes bf16 natively ({machine.description})"
    return "float32", "bf16 was declined" if machine.bf16 else f"no native bf16 ({machine.description})"


def uses_autocast(plan: Plan) -> bool:
    """Whether a run whose weights are fp32 autocasts."""
    return bool(plan.get("bf16") or plan.get("fp16"))
