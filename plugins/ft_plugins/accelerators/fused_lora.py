"""Fused LoRA: a layer's own product and its low-rank update as one function with a backward made by hand.

The update is added inside the product that makes it. No pass over a layer's outputs scales, casts or adds, and in bf16
the inputs are not copied to fp32. The idea is Unsloth's, and older: accumulate with BLAS' own beta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.errors import ConfigError
from ft_hookspecs import Change, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft_hookspecs import Plan, Problem


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """It is for plain LoRA on plain weights."""
    yield from _checks.lora_only(plan, "fused_lora", why="there is no low-rank update to fuse")
    yield from _checks.quantised(plan, "fused_lora", why="its backward multiplies by the plain weights of each layer")
    yield from _checks.apart(plan, "fused_lora", {"unsloth": "both replace the forward of the same LoRA layers"})


@hookimpl
def ft_accelerate_model(model: nn.Module) -> Change:
    """Replace the forward of each LoRA layer.

    Raises:
        ConfigError: there is none that can be fused.
    """
    from peft.tuners.lora import Linear as LoraLinear

    from ft_plugins.accelerators._layers.lora import can_fuse, fuse

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    fused = {name for name, module in layers.items() if can_fuse(module)}
    if not fused:
        raise ConfigError(
            "fused_lora finds no layer to fuse",
            why=f"the model has {len(layers)} LoRA layers, none plain and on a plain frozen matrix",
            remedy="leave it out of the plugins",
        )
    for name in fused:
        fuse(layers[name])
    left = f", {len(layers) - len(fused)} are not plain and stay" if len(fused) < len(layers) else ""
    names = frozenset(name.removeprefix("base_model.model.") for name in fused)
    return Change(model, f"{len(fused)} LoRA layers fused{left}", names)
