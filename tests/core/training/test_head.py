"""The label-only head equals full logits and autograd, however it is cut into chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ft.training import head as module
from ft.training.head import label_head

L, H, V = 11, 6, 37


class Scaled(nn.Linear):
    """A head that is not a plain matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


def operands(kind: type[nn.Linear], bias: bool, dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    linear = kind(H, V, bias=bias).to(dtype)
    return linear, torch.randn(1, L, H, dtype=dtype, requires_grad=True), torch.randint(V, (L,))


def gradients(loss: Tensor, linear: nn.Linear, hidden: Tensor) -> list[Tensor | None]:
    linear.zero_grad()
    hidden.grad = None
    loss.backward()
    return [hidden.grad, *(parameter.grad for parameter in linear.parameters())]


@pytest.fixture(params=[2**25, 3 * V], ids=["one chunk", "many chunks"])
def chunks(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", request.param)
    monkeypatch.setattr(module, "LEAST_ROWS", 1)
    monkeypatch.setattr(module, "OWN_FORWARD_ROWS", 4)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", [nn.Linear, Scaled])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_cross_entropy_and_all_gradients(kind: type[nn.Linear], bias: bool, frozen: bool) -> None:
    linear, hidden, targets = operands(kind, bias)
    linear.requires_grad_(not frozen)
    scale = torch.rand(L)
    expected = (functional.cross_entropy(linear(hidden)[0], targets, reduction="none") * scale).sum()
    wanted = gradients(expected * 3, linear, hidden)
    with label_head(linear, targets, scale):
        loss = linear(hidden)
    assert loss.shape == (1, 1, 1)
    torch.testing.assert_close(loss.item(), expected.item(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(loss.sum() * 3, linear, hidden), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", [nn.Linear, Scaled])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_log_probs_and_all_gradients(kind: type[nn.Linear], bias: bool, frozen: bool) -> None:
    linear, hidden, targets = operands(kind, bias)
    linear.requires_grad_(not frozen)
    expected = functional.log_softmax(linear(hidden)[0], -1).gather(1, targets[:, None])[:, 0]
    wanted = gradients(expected.square().sum(), linear, hidden)  # rows weigh differently, unknown to the forward
    with label_head(linear, targets):
        values = linear(hidden).reshape(-1)
    torch.testing.assert_close(values, expected.float())
    torch.testing.assert_close(gradients(values.square().sum(), linear, hidden), wanted, rtol=1e-5, atol=1e-6)


def test_a_second_backward_is_refused() -> None:
    linear, hidden, targets = operands(nn.Linear, bias=False)
    with label_head(linear, targets, torch.ones(L)):
        loss = linear(hidden).sum()
    loss.backward(retain_graph=True)
    with pytest.raises((AttributeError, RuntimeError)):
        loss.backward()


def test_no_labels_is_no_loss() -> None:
    linear, hidden, _ = operands(nn.Linear, bias=True)
    with label_head(linear, torch.empty(0, dtype=torch.long), torch.empty(0)):
        loss = linear(hidden[:, :0]).sum()
    loss.backward()
    assert loss.item() == 0
    assert linear.weight.grad is not None
    assert not linear.weight.grad.any()


def test_the_head_is_itself_again_afterwards() -> None:
    linear, hidden, targets = operands(nn.Linear, bias=False)
    before = linear(hidden)
    with pytest.raises(RuntimeError, match="inside"), label_head(linear, targets):
        raise RuntimeError("inside")
    assert torch.equal(linear(hidden), before)
    assert "forward" not in linear.__dict__


def test_hooks_of_the_head_run() -> None:
    linear, hidden, targets = operands(nn.Linear, bias=False)
    seen: list[torch.Size] = []
    linear.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    with label_head(linear, targets):
        linear(hidden)
    assert seen == [(1, L, 1)]


def test_autocast_computes_as_autocast_does() -> None:
    linear, hidden, targets = operands(nn.Linear, bias=False, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.cross_entropy(linear(hidden)[0].float(), targets, reduction="sum")
        wanted = gradients(expected, linear, hidden)
        with label_head(linear, targets, torch.ones(L)):
            loss = linear(hidden).sum()
        found = gradients(loss, linear, hidden)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-2)
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
