"""Full tuning: every parameter trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ft.errors import ConfigError
from ft.modeling import trainable_report
from ft.options import ModelOptions
from ft_hookspecs import Change, Problem, hookimpl
from ft_plugins.adapters import _estimate
from ft_plugins.adapters._weights import cast_trainable, save_whole, training_dtype, whole_weights_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Adapters, and weights in a format too coarse to be trained."""
    options = plan.of(ModelOptions)
    if options.dtype in ("bfloat16", "float16") and not (options.pure_bf16 and options.dtype == "bfloat16"):
        yield Problem(
            f"full tuning in {options.dtype} weights",
            why="updates smaller than the format's steps would be rounded away",
            remedy="leave dtype out (float32 weights; bf16: true computes in bfloat16), or set pure_bf16: true",
            keys=("dtype",),
        )
    yield from whole_weights_problems(plan, "full tuning")


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return _estimate.whole(plan, estimate)


@hookimpl
def ft_model_load_options(run: Run) -> Mapping[str, Any]:
    """Load in the dtype that trains: what was rounded on the way in cannot be had back."""
    return {"dtype": training_dtype(run.plan)}


@hookimpl
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Let every parameter train.

    Raises:
        ConfigError: the model's files are quantised.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if frozen or getattr(model, "is_quantized", False):
        raise ConfigError(
            "full tuning cannot train a quantised model",
            where=model.name_or_path,
            remedy="set finetuning_type: lora, or give the model's unquantised files",
        )
    cast("nn.Module", model).requires_grad_(True)
    cast_trainable(model, run.plan)
    modules = frozenset(
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    )
    return Change(model, f"full: {trainable_report(model)}", modules)


@hookimpl
def ft_save_model(model: PreTrainedModel, folder: Path) -> bool:
    """The whole model as safetensors, in the dtype it trained in; tied weights once."""
    save_whole(model, folder)
    return True
