"""HQQ: 1 to 8 bits by half-quadratic optimisation, without data (Badri & Shaji 2023), in the layers of its library."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Final, cast

from pydantic import Field

from ft.errors import ConfigError, refusals
from ft.quantization import stored_bytes
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.models._headers import linear_layers
from ft_plugins.quantizers import _common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1
ft_requires = {"hqq": "pip install 'ft-framework[hqq]'"}

STORED: Final = {1: 1, 2: 2, 3: 3.2, 4: 4, 5: 8, 6: 8, 8: 8}
"""Bits that a weight takes for each width: ten of 3 bits share 32, and 5 and 6 are not packed."""


class HqqOptions(PluginOptions):
    """How HQQ groups weights."""

    hqq_group_size: int = Field(
        default=64, ge=8, multiple_of=8, description="Weights of a row that share a scale and a zero point."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return HqqOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from _common.problems(plan, "hqq", tuple(STORED))
    yield from _common.whole_problems(plan, "hqq", "HQQ's scales are not parameters, so they would not be sharded")
    layers = linear_layers(plan, ["all"]) if _common.bits_of(plan) else {}
    yield from refusals(
        lambda: _check_rows(plan, {name: inputs for name, (_, inputs) in layers.items()}),
        "hqq_group_size",
        "quantization_method",
    )


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    bits = _common.bits_of(plan)
    scales = 2 * estimate.weight_bytes / plan.of(HqqOptions).hqq_group_size  # and zeros, in the format of the others
    return replace(estimate, matrix_bytes=STORED[bits] / 8 + scales) if bits else estimate


@hookimpl
def ft_quantize_model(run: Run, model: PreTrainedModel) -> Change:
    """Replace the linear layers one by one, on the device that trains.

    Raises:
        ConfigError: rows that are no whole number of groups.
    """
    bits, group, device = _common.bits_of(run.plan), run.plan.of(HqqOptions).hqq_group_size, _common.device_of(run.plan)
    layers, before = _common.linear_layers(model), stored_bytes(model)
    _check_rows(run.plan, {name: layer.in_features for name, layer in layers.items()})
    for name, layer in layers.items():
        model.set_submodule(name, _quantised(layer, bits, group, device))
    return _common.quantised(run.plan, model, f"hqq-{bits}", f"groups of {group}", before)


def _quantised(layer: nn.Linear, bits: int, group: int, device: torch.device) -> nn.Module:
    import torch
    from hqq.core.quantize import HQQLinear, hqq_base_quant_config

    dtype, shape = layer.weight.dtype, layer.weight.shape
    layer.requires_grad_(False)  # its copy of the bias would carry a gradient that its backward gets wrong
    config = hqq_base_quant_config(nbits=bits, group_size=group, axis=1)
    with torch.no_grad():
        quantised = HQQLinear(layer, config, compute_dtype=dtype, device=str(device))
    quantised.W_q.unpacked_shape = shape
    return cast("nn.Module", quantised)


def _check_rows(plan: Plan, rows: Mapping[str, int]) -> None:
    group = plan.of(HqqOptions).hqq_group_size
    uneven = {name: size for name, size in rows.items() if size % group}
    if uneven:
        (name, size), common = next(iter(uneven.items())), gcd(*rows.values())
        raise ConfigError(
            f"hqq_group_size: {group} does not divide the rows of {len(uneven)} layers",
            where=str(plan.sources.get("hqq_group_size", "")),
            why=f"{name} has rows of {size} weights",
            remedy="set hqq_group_size to " + " or ".join(str(g) for g in (128, 64, 32, 16, 8) if not common % g),
        )
