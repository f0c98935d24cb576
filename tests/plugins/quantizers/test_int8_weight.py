"""The int8 matrix of eetq: a float matrix to everyone, quantised whatever is done to it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ft.quantization import dequantized, stored_bytes
from ft_plugins.quantizers._layers.int8 import Int8Weight, check_kernels


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(64, 32).requires_grad_(False)
    made.weight = nn.Parameter(Int8Weight.of(made.weight), requires_grad=False)
    return made


def test_it_is_the_nearest_of_255_values_a_row() -> None:
    weight = torch.randn(32, 64)
    rounded = Int8Weight.of(weight)
    assert rounded.q.dtype == torch.int8
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((rounded.dequantize() - weight).abs() <= step / 2 + 1e-7).all()
    assert Int8Weight.of(torch.zeros(2, 3)).dequantize().eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_and_gradient(layer: nn.Linear, dtype: torch.dtype) -> None:
    layer.to(dtype)
    x = torch.randn(2, 5, 64, dtype=dtype, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    weight, bound = dequantized(layer), {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    wanted = x.detach().float() @ weight.t() + layer.bias.float()
    torch.testing.assert_close(output.float(), wanted, rtol=bound, atol=bound)
    torch.testing.assert_close(x.grad.float(), torch.ones(2, 5, 32) @ weight, rtol=bound, atol=bound)


def test_float16_holds_what_comes_and_goes(layer: nn.Linear) -> None:
    """Its range ends at 65504 and at 6e-8: sums of int8 times input pass the one, scaled gradients the other."""
    weight = dequantized(layer)
    layer.half()
    x = (1000 * weight[:1].sign()).half().requires_grad_()
    output = layer(x)
    wanted = x.detach().float() @ weight.t() + layer.bias.float()
    torch.testing.assert_close(output.float(), wanted, rtol=1e-2, atol=1.0)
    gradient = torch.full_like(output, 1e-5)
    output.backward(gradient)
    torch.testing.assert_close(x.grad.float(), gradient.float() @ weight, rtol=1e-2, atol=1e-7)


def test_it_stays_int8(layer: nn.Linear) -> None:
    assert stored_bytes(layer) == 32 * 64 + 32 * 4 + 32 * 4  # weights, scales, bias
    for same in (layer.to(torch.bfloat16), copy.deepcopy(layer), nn.Sequential(layer).cpu()[0]):
        assert isinstance(same.weight, Int8Weight)
        assert isinstance(same.weight, nn.Parameter)
    kept = layer.state_dict()["weight"]
    assert kept.q.data_ptr() == layer.weight.q.data_ptr()


def test_what_is_written_into_it_is_rounded_and_never_lost(layer: nn.Linear) -> None:
    before, change = layer.weight.dequantize(), torch.randn(32, 64) / 10
    layer.weight.data += change
    assert isinstance(layer.weight, Int8Weight)
    torch.testing.assert_close(layer.weight.dequantize(), before + change, rtol=0, atol=4e-3)
    layer.weight.data = before
    torch.testing.assert_close(layer.weight.dequantize(), before, rtol=0, atol=4e-3)
    q = layer.weight.q.clone()
    layer.weight.data.copy_(layer.weight.dequantize())
    assert torch.equal(layer.weight.q, q)


class Kernels:
    """EETQ's interface by PyTorch."""

    broken = False

    @staticmethod
    def quant_weights(weight: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        rounded = Int8Weight.of(weight.t())
        return rounded.q.t().contiguous(), rounded.scale.half()

    def w8_a16_gemm(self, x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x.float() @ q.float() * scale * (2 if self.broken else 1)).half()


def test_kernels_are_taken_only_if_they_compute_the_same() -> None:
    kernels = Kernels()
    assert check_kernels(kernels, torch.device("cpu"))
    kernels.broken = True
    assert not check_kernels(kernels, torch.device("cpu"))
    assert not check_kernels(None or object(), torch.device("cpu"))
