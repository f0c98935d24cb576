"""Models whose files are quantised already (GPTQ, AWQ, AQLM, FP8, bitsandbytes …), in transformers' own layers."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ft.devices import on_gpu
from ft.errors import ConfigError
from ft.options import ModelOptions
from ft.quantization import method_of, quantised_files, quantization_of
from ft_hookspecs import Change, Problem, hookimpl
from ft_plugins.models._headers import files_config
from ft_plugins.quantizers import _common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1


class Method(NamedTuple):
    """What transformers needs for a method: packages by import name with what to install, and perhaps a GPU."""

    packages: Mapping[str, str] = MappingProxyType({})
    gpu: bool = False
    dequantises: bool = False
    """Its kernels have no gradient: the weights become floats while they are read."""


METHODS: Final = {
    "bitsandbytes": Method({"bitsandbytes": "'ft-framework[bnb]'"}),
    "gptq": Method({"gptqmodel": "gptqmodel", "optimum": "optimum"}),
    "awq": Method({"gptqmodel": "gptqmodel"}),
    "aqlm": Method({"aqlm": "'aqlm[gpu,cpu]>=1.0.2'"}),
    "compressed-tensors": Method({"compressed_tensors": "'compressed-tensors>=0.15'"}),
    "quanto": Method({"optimum": "optimum-quanto"}),
    "torchao": Method({"torchao": "torchao"}),
    "eetq": Method({"kernels": "kernels"}, gpu=True),
    "fp8": Method(dequantises=True),
    "mxfp4": Method(dequantises=True),
}
"""Methods that can be trained through. Those that transformers loads for inference alone are not among them."""

WITHOUT_DORA: Final = ("gptq", "awq", "aqlm", "eetq")
"""Weights that PEFT cannot read back, as DoRA must for their norms."""


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    """What is known when the files are on this machine; else it is found out when they are."""
    config = _config(plan)
    if not config:
        return
    name = method_of(config)
    if plan.get(_common.BITS) is not None:
        yield Problem(
            f"quantization_bit with files that are quantised already ({name})",
            why="weights are quantised once",
            remedy="take quantization_bit out, or name the model's unquantised files",
            keys=(_common.BITS, "model_name_or_path"),
        )
    if (method := METHODS.get(name)) is None:
        yield Problem(
            f"files quantised by {name} cannot be trained on",
            why=f"transformers loads them for inference alone; it can train on {', '.join(sorted(METHODS))}",
            remedy="name the model's unquantised files, and set quantization_bit to quantise them while loading",
            keys=("model_name_or_path",),
        )
        return
    yield from _needs(plan, name, method)


def _needs(plan: Plan, name: str, method: Method) -> Iterator[Problem]:
    missing = {module: package for module, package in method.packages.items() if find_spec(module) is None}
    if missing:
        yield Problem(
            f"files quantised by {name} need {' and '.join(missing)}",
            remedy=f"pip install {' '.join(missing.values())}",
            keys=("model_name_or_path",),
            exit_code=5,
        )
    if method.gpu and not on_gpu(plan):
        yield Problem(
            f"files quantised by {name} need a GPU",
            why="its kernels are CUDA's",
            remedy="name the model's unquantised files; quantization_bit: 8 with quantization_method: eetq has the "
            "same mathematics on any device",
            keys=("model_name_or_path",),
            exit_code=5,
        )
    if name in WITHOUT_DORA and plan.get("use_dora"):
        yield Problem(
            f"use_dora on files quantised by {name}",
            why="DoRA needs the norm of each row of the weights, which cannot be read back from this packing",
            remedy="take use_dora out, or quantise the unquantised files: quantization_bit: 4",
            keys=("use_dora", "model_name_or_path"),
        )


def _config(plan: Plan) -> Mapping[str, Any]:
    options = plan.of(ModelOptions)
    return files_config(options.model_name_or_path, options.model_revision)


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    """Weights stay as packed as the files have them, but for those that become floats while they are read."""
    dequantises = METHODS.get(method_of(_config(plan)), Method()).dequantises
    return replace(estimate, matrix_bytes=None) if dequantises else estimate


@hookimpl
def ft_model_load_options(run: Run) -> Mapping[str, Any]:
    """The method is found by transformers itself; weights whose kernels have no gradient become floats."""
    config = _config(run.plan) or quantised_files(run.model_files.path if run.model_files else "")
    name = method_of(config)
    method = METHODS.get(name, Method())
    if method.dequantises:
        import transformers

        kind = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}[name]
        return {"quantization_config": getattr(transformers, kind)(dequantize=True)}
    return {"device_map": {"": _common.device_of(run.plan)}} if config else {}


@hookimpl
def ft_quantize_model(run: Run, model: PreTrainedModel) -> Change:
    """Nothing is replaced: the layers came with the files, and are made fit for training.

    Raises:
        ConfigError: the files are not quantised after all.
    """
    config, name = _config(run.plan), quantization_of(model)
    if config and METHODS[method_of(config)].dequantises:
        summary = f"{method_of(config)} files are read into {model.dtype} weights, since their kernels have no gradient"
        return Change(model, summary, details={"quantization": None})
    if name is None:
        raise ConfigError(
            "the model's files are not quantised",
            where=str(run.plan.sources.get("model_name_or_path", "")),
            remedy="take the plugin prequantized out, or set quantization_bit to quantise while loading",
        )
    if name.startswith("bnb"):
        from ft_plugins.quantizers._layers.bnb import make_trainable

        _cast_plain(run.plan, model)
        make_trainable(model)
    return _common.quantised(run.plan, model, name, "as its files are", _common.unquantised_bytes(model))


def _cast_plain(plan: Plan, model: PreTrainedModel) -> None:
    """Give what is not quantised its number format: transformers leaves it in that of bitsandbytes' files."""
    from torch import nn

    from ft.precision import choose_dtype

    dtype, kept = choose_dtype(plan, trains_everything=False)[0], tuple(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        plain = type(parameter) is nn.Parameter and parameter.is_floating_point()
        if plain and not any(part in name for part in kept):
            parameter.data = parameter.data.to(dtype)
