"""The language-model head at supervised positions alone, a chunk of rows at a time, so that full logits never exist.

The model runs its own ``forward`` with ``logits_to_keep``; only the head's ``forward`` is replaced for the call and
returns a loss or log-probabilities where logits are expected. Hooks of DDP, FSDP and PEFT therefore run as ever.

Shapes: L labels, n rows of one chunk, h hidden size, V vocabulary.

References:
    The gradient of softmax cross-entropy made in the forward pass, chunk by chunk: Hsu et al. 2024, "Liger Kernel"
    (arXiv:2410.10989); never holding the logits: Wijmans et al. 2024, "Cut Your Losses" (arXiv:2411.09009). Neither's
    approximation is used: results are exact to rounding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ft.estimate.terms import CHUNK_ELEMENTS, LEAST_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN_FORWARD_ROWS: Final = 256
"""Rows of a chunk for a head whose vocabulary is not ours to ask for."""


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, calling the module calls ``forward``; its hooks run as ever."""
    hooked = module.__dict__.get("forward")  # accelerate's hooks live here; they are put back
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if hooked is not None:
            module.__dict__["forward"] = hooked


@contextmanager
def label_head(head: nn.Module, targets: Tensor, scale: Tensor | None = None) -> Iterator[None]:
    """While open, ``head(hidden)`` returns for hidden states (1, L, h), instead of logits,

    - with ``scale`` (L,): Σ scale · -log p(target), shape (1, 1, 1);
    - without: log p(target) of each row, shape (1, L, 1).
    """
    own = head.forward

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        if scale is None:
            return log_probs(head, own, rows, targets).view(1, -1, 1)
        return cross_entropy(head, own, rows, targets, scale).view(1, 1, 1)

    with replaced_forward(head, forward):
        yield


def cross_entropy(
    head: nn.Module, own: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, scale: Tensor
) -> Tensor:
    """Σ scale · -log p(target), an fp32 scalar, for hidden (L, h), targets (L,) and scale (L,) in fp32."""
    if not is_linear(head):
        return -(scale @ _by_own_forward(own, hidden, targets)[0])
    operands = _operands(head, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _CrossEntropy.apply(*operands, targets, scale)  # type: ignore[no-untyped-call]  # torch's gap
    return loss


def log_probs(head: nn.Module, own: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each target, (L,) in fp32, whose gradient is scaled a row at a time in the backward."""
    return log_probs_and_entropy(head, own, hidden, targets, entropy=False)[0]


def log_probs_and_entropy(
    head: nn.Module, own: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """:func:`log_probs`, and the entropy of each row's distribution in nats, (L,) in fp32, without gradient."""
    if not is_linear(head):
        return _by_own_forward(own, hidden, targets, entropy)
    operands = _operands(head, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        values: tuple[Tensor, Tensor] = _LogProbs.apply(*operands, targets, entropy)  # type: ignore[no-untyped-call]  # torch's gap
    return values


def is_linear(head: nn.Module) -> bool:
    """Whether the head is a plain matrix; an adapted, quantised or otherwise special head runs its own code."""
    return type(head) is nn.Linear and head.weight.is_floating_point()


def _operands(head: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the product is made of, cast as autocast would cast it."""
    weight, bias = head.weight, head.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def picked(logits: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets and entropies (zeros unless they are asked for) of logits (n, V): (n,), (n,)."""
    scores = functional.log_softmax(logits, dim=-1, dtype=torch.float32)
    return scores.gather(1, targets[:, None])[:, 0], _entropy(scores) if entropy else scores.new_zeros(len(scores))


def _entropy(scores: Tensor) -> Tensor:
    """Of log-probabilities (n, V), some perhaps -inf: (n,)."""
    entropies: Tensor = torch.special.entr(scores.detach().exp()).sum(-1)
    return entropies


def _by_own_forward(
    own: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities through the head's own forward; logits are made again in the backward: one more product."""

    def chunk(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return picked(own(x), y, entropy)

    parts = [slice(start, start + OWN_FORWARD_ROWS) for start in range(0, max(len(hidden), 1), OWN_FORWARD_ROWS)]
    found = [checkpoint(chunk, hidden[part], targets[part], use_reentrant=False) for part in parts]
    values, entropies = (torch.cat(each) for each in zip(*found, strict=True))
    return values, entropies


class _Gradients(NamedTuple):
    """Of hidden (L, h), weight (V, h) and bias (V,); ``None`` where none is wanted. The last two are fp32 buffers."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(cls, operands: tuple[Tensor, Tensor, Tensor | None], wanted: tuple[bool, ...]) -> _Gradients:
        hidden, weight, bias = operands
        return cls(
            torch.empty_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None,
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None,
        )


def _sweep(
    operands: tuple[Tensor, Tensor, Tensor | None],
    targets: Tensor,
    factor: Tensor,
    wanted: tuple[bool, ...],
    entropies: Tensor | None = None,
) -> tuple[Tensor, _Gradients]:
    """The log-probability of each target, (L,), and the gradients of Σ factor · -log p(target), in one pass.

    The derivative in the logits is softmax - onehot; ``factor`` multiplies rows of h values, never of V. The entropy of
    each row is written into ``entropies`` (L,).
    """
    hidden, weight, bias = operands
    values = hidden.new_empty(len(hidden), dtype=torch.float32)
    gradients = _Gradients.empty(operands, wanted)
    rows = max(LEAST_ROWS, CHUNK_ELEMENTS // len(weight))
    for part in (slice(start, start + rows) for start in range(0, len(hidden), rows)):
        x, y, scale = hidden[part], targets[part], factor[part, None].to(hidden.dtype)
        scores = functional.log_softmax(functional.linear(x, weight, bias), dim=-1, dtype=torch.float32)
        values[part] = scores.gather(1, y[:, None])[:, 0]
        if entropies is not None:
            entropies[part] = _entropy(scores)
        if not any(wanted):
            continue
        scores.exp_()[torch.arange(len(y), device=y.device), y] -= 1
        residual = scores.to(x.dtype)
        if gradients.hidden is not None:
            torch.mul(residual @ weight, scale, out=gradients.hidden[part])
        if gradients.weight is not None:
            _add_product(gradients.weight, residual.t(), x * scale)
        if gradients.bias is not None:
            gradients.bias.add_(factor[part] @ scores)
    return values, gradients


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, without a temporary of its size where the dtypes allow it."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _CrossEntropy(torch.autograd.Function):
    """Loss and all gradients in one pass; the backward only multiplies by the incoming scalar."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: Tensor
    ) -> Tensor:
        values, ctx.gradients = _sweep((hidden, weight, bias), targets, scale, ctx.needs_input_grad)
        ctx.dtype = weight.dtype
        return -(scale @ values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        del ctx.gradients  # scaled in place below, for there may be no room for a copy: a second backward is refused
        scaled = (None if each is None else each.mul_(grad_outputs[0]).to(ctx.dtype) for each in gradients)
        return *scaled, None, None


class _LogProbs(torch.autograd.Function):
    """Log-probabilities whose gradient is scaled a row at a time, by what only the backward knows.

    With a frozen head the derivative of each row in its hidden state is kept, (L, h), and scaled later; with one that
    trains the logits are made again, since the gradient of the weight needs the scaling before its sum.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.frozen = not any(ctx.needs_input_grad[1:])
        wanted = (ctx.frozen and ctx.needs_input_grad[0], False, False)
        factor = torch.full((len(hidden),), -1.0, device=hidden.device)
        entropies = torch.zeros_like(factor)
        values, gradients = _sweep((hidden, weight, bias), targets, factor, wanted, entropies if entropy else None)
        ctx.mark_non_differentiable(entropies)
        if ctx.frozen:
            ctx.save_for_backward(gradients.hidden)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets)
        return values, entropies

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows = grad_outputs[0]
        if ctx.frozen:
            (derivative,) = ctx.saved_tensors
            return derivative * rows[:, None].to(derivative.dtype), None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        _, gradients = _sweep((hidden, weight, bias), targets, -rows, ctx.needs_input_grad)
        return *(None if each is None else each.to(weight.dtype) for each in gradients), None, None
