"""A LoRA layer as one autograd function.

Shapes: T tokens, i inputs, o outputs, r rank; W (o, i), A (r, i), B (o, r).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen.

    The update is added inside the product that makes it, so no pass over the outputs scales, casts or adds; the
    backward does the same with the gradient of x. The factors are cast to the number format of x, as autocast would
    cast them; x itself is never copied.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (T, i)
        factors = A.to(x.dtype), B.to(x.dtype)
        low = rows @ factors[0].t()  # (T, r)
        output = nn.functional.linear(rows, W, bias)
        output.addmm_(low, factors[1].t(), alpha=scaling)
        ctx.save_for_backward(rows, W, *factors, low)
        ctx.scaling, ctx.dtypes = scaling, (A.dtype, B.dtype)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, W, A, B, low = ctx.saved_tensors
        (gradient,) = gradients
        slope = gradient.reshape(-1, gradient.shape[-1])  # (T, o)
        back = (slope @ B).mul_(ctx.scaling)  # (T, r)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (slope @ W).addmm_(back, A).view(*gradient.shape[:-1], -1)
        d_A = (back.t() @ rows).to(ctx.dtypes[0])
        d_B = (slope.t() @ low).mul_(ctx.scaling).to(ctx.dtypes[1])
        return d_x, None, None, d_A, d_B, None


class FusedLora(LoraLinear):  # type: ignore[misc]  # peft ships no types
    """PEFT's layer with another forward; whatever is not one active, unmerged adapter takes PEFT's own."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]  # as above
        name, base = self.active_adapters[0], self.base_layer
        if torch.is_autocast_enabled(x.device.type) or name not in self.lora_A or base.weight.dtype != x.dtype:
            return super().forward(x)  # type: ignore[no-any-return]  # as above
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        return LoraProduct.apply(x, base.weight, base.bias, *factors, self.scaling[name])  # type: ignore[no-any-return, no-untyped-call]  # torch's gap


def can_fuse(module: Any) -> bool:
    """Whether a module is plain LoRA on a plain, frozen matrix: no dropout, no variant, no bias of its own."""
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
        return False
    frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    plain = not module.lora_variant and not any(module.lora_bias.values()) and not module.fan_in_fan_out
    return frozen and plain and all(type(each) is nn.Identity for each in module.lora_dropout.values())


def fuse(module: nn.Module) -> None:
    """Give the layer the other forward; its parameters, hooks and names stay."""
    module.__class__ = FusedLora
