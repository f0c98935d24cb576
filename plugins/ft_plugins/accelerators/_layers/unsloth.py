"""Unsloth's kernels on the modules of a model that ft has loaded. Importing this imports unsloth, which needs a GPU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from unsloth.kernels import apply_lora_mlp_swiglu, fast_rms_layernorm, get_lora_parameters
from unsloth.kernels.fast_lora import LoRA_W

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def bind(model: nn.Module) -> dict[str, str]:
    """Give norms, MLPs and LoRA projections Unsloth's forward; the name of each such module, and its kind.

    An MLP is bound as a whole when all its projections are plain LoRA layers: they are then claimed too.
    """
    bound: dict[str, str] = {}
    for name, module in model.named_modules():
        if name in bound:
            continue
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(fast_rms_layernorm, module)
            bound[name] = "RMSNorm"
        elif all(is_plain(getattr(module, part, None)) for part in PROJECTIONS):
            module.forward = partial(apply_lora_mlp_swiglu, module, inplace=False)
            bound |= {name: "MLP"} | {f"{name}.{part}": "LoRA" for part in PROJECTIONS}
        elif is_plain(module):
            module.forward = _projection(module, module.forward)
            bound[name] = "LoRA"
    return bound


def is_plain(module: Any) -> bool:
    """Whether a module is LoRA on a matrix without bias: no dropout, no variant."""
    if not hasattr(module, "lora_A") or not hasattr(module, "base_layer"):
        return False
    without = [module.base_layer.bias, *(each.bias for each in module.lora_B.values()), *module.lora_variant]
    return all(each is None for each in without) and not any(
        getattr(each, "p", 0) for each in module.lora_dropout.values()
    )


def _projection(layer: Any, own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Unsloth's forward of one layer; it adds the update in the format of ``x``, which autocast may change."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        cast = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) != x.dtype
        if args or kwargs or cast or layer.disable_adapters or layer.merged or x.dim() != 3:
            return own(x, *args, **kwargs)
        output: Tensor = LoRA_W.apply(x, *get_lora_parameters(layer))
        return output

    return forward
