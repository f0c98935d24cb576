"""A weight matrix in int8 that any layer can hold: to everyone else it is the float matrix that it stands for.

A linear layer multiplies by it without ever keeping the floats; every other operation gets them, made for the moment,
and one that writes into the matrix (merging an adapter) leaves it quantised again. So ``nn.Linear`` stays what it is,
and adapters, devices and ``state_dict`` need not know.

Shapes: N outputs, K inputs, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten
LARGEST = 127
TOLERANCE = 1e-2
"""Of kernels against PyTorch's product, as a share of the largest value: float16 rounds a sum of some hundred."""


class Int8Weight(Tensor):
    """A matrix (N, K) as int8 and a scale in fp32 for each row: w = q · scale.

    Args:
        q: int8, (N, K); with kernels the layout that they made of it, (K, N).
        scale: fp32 (N,); with kernels as they made it.
        shape, dtype: of the matrix that it stands for.
        kernels: EETQ's module, or ``None`` for PyTorch's product.
    """

    q: Tensor
    scale: Tensor
    kernels: Any

    @staticmethod
    def __new__(cls, q: Tensor, scale: Tensor, shape: Any, dtype: torch.dtype, kernels: Any = None) -> Int8Weight:
        made: Int8Weight = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=q.device)
        made.q, made.scale, made.kernels = q, scale, kernels
        return made

    @classmethod
    def of(cls, weight: Tensor, kernels: Any = None) -> Int8Weight:
        """Round a float matrix: each row's largest absolute value becomes 127."""
        with torch.no_grad():
            if kernels is not None:
                q, scale = kernels.quant_weights(weight.t().contiguous().half().cpu(), torch.int8, False)
                q, scale = q.to(weight.device), scale.to(weight.device)
            else:
                rows = weight.detach().float()
                scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
                q = (rows / scale[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
            return cls(q, scale, weight.shape, weight.dtype, kernels)

    def dequantize(self) -> Tensor:
        """The floats that it stands for, (N, K) in its dtype."""
        if self.kernels is None:
            return (self.q.float() * self.scale[:, None]).to(self.dtype)
        identity = torch.eye(self.shape[1], dtype=torch.float16, device=self.device)
        return self.kernels.w8_a16_gemm(identity, self.q, self.scale).t().to(self.dtype)  # type: ignore[no-any-return]  # untyped

    def product(self, x: Tensor) -> Tensor:
        """The product x · wᵀ: (…, K) → (…, N) in the dtype of x. Scales multiply the result: int8 is exact in bf16.

        In float16 that sum of products could overflow, and a scaled gradient vanish: there the floats are made first.
        """
        if self.kernels is not None and x.dtype == torch.float16:
            return self.kernels.w8_a16_gemm(x.reshape(-1, x.shape[-1]), self.q, self.scale).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]  # untyped
        if self.kernels is not None or x.dtype == torch.float16:
            return functional.linear(x, self.dequantize().to(x.dtype))
        return functional.linear(x, self.q.to(x.dtype)) * self.scale.to(x.dtype)

    def transposed_product(self, gradient: Tensor) -> Tensor:
        """The product gradient · w: (…, N) → (…, K), the gradient of :meth:`product` in its input."""
        if self.kernels is not None or gradient.dtype == torch.float16:
            return gradient @ self.dequantize().to(gradient.dtype)
        return (gradient * self.scale.to(gradient.dtype)) @ self.q.to(gradient.dtype)

    def become(self, values: Tensor) -> None:
        """Become other floats, rounded; what it stands for already changes nothing."""
        new = values if isinstance(values, Int8Weight) else Int8Weight.of(values.to(self.device), self.kernels)
        if isinstance(values, Int8Weight) or not torch.equal(values.to(self), self.dequantize()):
            self.q.copy_(new.q)
            self.scale.copy_(new.scale)

    def _with(self, convert: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Int8Weight:
        return Int8Weight(convert(self.q), convert(self.scale), self.shape, dtype or self.dtype, self.kernels)

    # ---- what torch asks of a tensor made of tensors

    def __repr__(self) -> str:  # type: ignore[override]  # its contents are nobody's to print
        return f"Int8Weight({tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["q", "scale"], (self.shape, self.dtype, self.kernels)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: Any, *_: Any) -> Int8Weight:
        return Int8Weight(inner["q"], inner["scale"], *context)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return _linear(*args, **kwargs)
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]  # a property to Python
            return args[0].become(args[1])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # as torch calls it
        kwargs = kwargs or {}
        if func in (aten.detach.default, aten.alias.default):
            return args[0]._with(lambda part: part)
        if func is aten.clone.default:
            return args[0]._with(Tensor.clone)
        if func is aten._to_copy.default:
            return args[0]._with(lambda part: part.to(kwargs.get("device")), kwargs.get("dtype"))
        return _on_floats(func, args, kwargs)


def _on_floats(func: Any, args: Any, kwargs: Any) -> Any:
    """Any other operation: on the floats, and what it wrote into a matrix is rounded back into it."""
    floats: dict[int, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Int8Weight):
            return floats.setdefault(id(value), value.dequantize())
        return value

    result = func(*tree_map(plain, args), **tree_map(plain, kwargs))
    written = [
        value
        for value, argument in zip(args, func._schema.arguments, strict=False)
        if isinstance(value, Int8Weight) and argument.alias_info is not None and argument.alias_info.is_write
    ]
    for matrix in written:
        matrix.become(floats[id(matrix)])
    return written[0] if written and result is floats[id(written[0])] else result


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` with an int8 matrix, in the dtype that autocast or the input has."""
    if not isinstance(weight, Int8Weight):
        with torch._C.DisableTorchFunctionSubclass():
            return functional.linear(x, weight, bias)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        product: Tensor = _Product.apply(x.to(dtype), weight)  # type: ignore[no-untyped-call]  # torch's gap
        return product if bias is None else product + bias.to(dtype)


class _Product(torch.autograd.Function):
    """The product and its gradient in the input; nothing but the int8 matrix is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Int8Weight) -> Tensor:
        ctx.weight = weight
        return weight.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.weight.transposed_product(gradients[0]), None


def check_kernels(kernels: Any, device: torch.device) -> bool:
    """Whether the kernels compute, on this device, what PyTorch does; they are another project's."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(size, 256, generator=generator).half().to(device) for size in (128, 64))
    try:
        theirs = Int8Weight.of(weight, kernels)
        found, wanted = (
            functional.linear(x, nn.Parameter(theirs, requires_grad=False)),
            Int8Weight.of(weight).product(x),
        )
        differences = (found - wanted).abs().max(), (theirs.dequantize() - weight).abs().max() * 10
    except (RuntimeError, TypeError, AttributeError):
        return False
    return all(bool(each <= TOLERANCE * wanted.abs().max()) for each in differences)
