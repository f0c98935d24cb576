"""EETQ: int8 weights, symmetric, one scale for each output, under 16-bit activations (github.com/NetEase-FuXi/EETQ)."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from ft.quantization import stored_bytes
from ft_hookspecs import Change, Problem, hookimpl
from ft_plugins.quantizers import _common

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1

WIDTHS: Final = (8,)


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from _common.problems(plan, "eetq", WIDTHS, default=8)
    yield from _common.whole_problems(plan, "eetq", "a shard would hold weights without their scales")


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return replace(estimate, matrix_bytes=1.0) if _common.bits_of(plan, default=8) else estimate


@hookimpl
def ft_quantize_model(run: Run, model: PreTrainedModel) -> Change:
    """Replace the weights of the linear layers one by one, on the device that trains."""
    from torch import nn

    from ft_plugins.quantizers._layers.int8 import Int8Weight

    layers, before, device = _common.linear_layers(model), stored_bytes(model), _common.device_of(run.plan)
    kernels, why = kernels_for(device, model.dtype)
    for layer in layers.values():
        layer.requires_grad_(False).to(device)
        layer.weight = nn.Parameter(Int8Weight.of(layer.weight, kernels), requires_grad=False)
    return _common.quantised(run.plan, model, "eetq-8", f"int8 a row; {why}", before)


def kernels_for(device: torch.device, dtype: torch.dtype) -> tuple[Any, str]:
    """EETQ's own kernels where they serve, else ``None``; and a word on which product runs."""
    import torch

    if device.type != "cuda":
        return None, "PyTorch's product, since EETQ's kernels need a GPU"
    if find_spec("EETQ") is None:
        return None, "PyTorch's product, since the package eetq is not installed"
    if dtype != torch.float16:
        return None, f"PyTorch's product, since EETQ's kernels compute in float16 and the model in {dtype}"
    from ft_plugins.quantizers._layers.int8 import check_kernels

    kernels = __import__("EETQ")
    return (
        (kernels, "EETQ's kernels")
        if check_kernels(kernels, device)
        else (None, "PyTorch's product, since EETQ's kernels differ from it here")
    )
