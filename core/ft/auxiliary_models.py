"""What a run asks besides the model that trains: other models, and the plugins that give rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ft.errors import DataError, PluginError
from ft.options import listed
from ft_hookspecs import OtherModel, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ft.plugins import PluginManager
    from ft_hookspecs import ModelFiles, PluginInfo


def rewarder(run: Run, plugins: PluginManager, info: PluginInfo) -> Callable[[list[str], list[str]], Sequence[float]]:
    """One plugin's ``ft_reward`` as a function of prompts and answers."""
    return lambda prompts, answers: plugins.call(info, "ft_reward", run=run, prompts=prompts, answers=answers)


def load_other(
    run: Run, plugins: PluginManager, name: str, adapters: str | None = None, bits: int | None = None
) -> OtherModel:
    """Another model than the one that trains, by the same plugins and in its number format: ``run.load_other``.

    Raises:
        DataError: no plugin finds it or its adapters, or they do not fit.
    """
    from ft.modeling import check_vocabulary, load_tokenizer

    names = listed(adapters or "")
    files = plugins.hook.ft_resolve_model(plan=run.plan, name=name)
    if files is None:
        raise DataError(f"no plugin can find the model {name!r}", remedy="give a folder, a .gguf file or a hub id")
    model = _quantised(run, plugins, files, bits) if bits else _load(run, plugins, files, {})
    tokenizer = load_tokenizer(files, run.plan)
    check_vocabulary(model, tokenizer)
    if names and (model := plugins.hook.ft_add_adapters(plan=run.plan, model=model, names=names)) is None:
        raise PluginError(f"no plugin adds the adapters {adapters!r}", remedy="select the model plugin `local`")
    return OtherModel(model.requires_grad_(False).eval(), tokenizer)


def _load(run: Run, plugins: PluginManager, files: ModelFiles, more: Mapping[str, Any]) -> PreTrainedModel:
    from ft.modeling import load_model
    from ft.training.capability import base_dtype

    assert run.model is not None
    options = {**more, "dtype": base_dtype(run.model)}
    model = plugins.hook.ft_load_model(run=run, files=files, options=options)
    return model if model is not None else load_model(files, options, run.plan)


def _quantised(run: Run, plugins: PluginManager, files: ModelFiles, bits: int) -> nn.Module:
    """The model, quantised by the run's quantizer as if it were the one that trains."""
    from ft.modeling import merge_load_options

    theirs = Run(replace(run.plan, values={**run.plan.values, "quantization_bit": bits}), run.tell, model_files=files)
    loading, quantising = (
        [info for info in plugins.implementers(hook) if info.kind == "quantizers"]
        for hook in ("ft_model_load_options", "ft_quantize_model")
    )
    options = merge_load_options((info, plugins.call(info, "ft_model_load_options", run=theirs)) for info in loading)
    model: nn.Module = _load(run, plugins, files, options)
    for info in quantising:
        change = plugins.call(info, "ft_quantize_model", run=theirs, model=model)
        model = change.model
        run.decide(f"{files.description or files.path}: {change.summary}")
    return model
