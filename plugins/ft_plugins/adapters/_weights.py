"""What every adapter does with the weights that train."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ft.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ft.options import ModelOptions
from ft.quantization import quantizer
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan

ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


def training_dtype(plan: Plan) -> torch.dtype:
    """float32, so that small updates are not rounded away; bfloat16 with ``pure_bf16``."""
    import torch

    return torch.bfloat16 if plan.of(ModelOptions).pure_bf16 else torch.float32


def cast_trainable(model: nn.Module, plan: Plan) -> None:
    """Give the parameters that train their dtype.

    In place, so that tied weights stay tied, and not by ``model.to``, which would round the rotary frequencies too.
    """
    dtype = training_dtype(plan)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def run_in(module: nn.Module, outside: torch.dtype) -> None:
    """Let a module whose float32 weights train compute as the model around it does, which is in another format.

    Under autocast, as mixed precision does it: weights and their gradients stay as they are, products are in
    ``outside``, and so is the result.
    """
    import torch

    dtypes = {parameter.dtype for parameter in module.parameters()}
    if dtypes <= {outside}:
        return
    own = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        device = next(module.parameters()).device.type
        with torch.autocast(device, dtype=outside):
            return _cast(own(*args, **kwargs), outside)

    module.forward = forward  # as accelerate wraps it: hooks and checkpointing go on


def bridge(module: nn.Module, outside: torch.dtype) -> None:
    """Let a module that trains in one dtype stand in a model of another: inputs are cast in, results cast out."""
    inside = next(module.parameters()).dtype
    if inside == outside:
        return
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (_cast(args, inside), {key: _cast(value, inside) for key, value in kwargs.items()}),
        with_kwargs=True,
    )
    module.register_forward_hook(lambda _, __, result: _cast(result, outside))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    return value.to(dtype) if getattr(value, "is_floating_point", bool)() else value


def whole_weights_problems(plan: Plan, tuning: str) -> Iterator[Problem]:
    """What cannot be combined with a tuning of the model's own weights, called ``tuning``."""
    options = plan.of(ModelOptions)
    if options.adapter_name_or_path:
        yield Problem(
            f"{tuning} cannot start from an adapter",
            why="there would be no adapter left to go on with",
            remedy="set finetuning_type: lora, or merge the adapter into the model first",
            keys=("adapter_name_or_path",),
        )
    if found := quantizer(plan):
        yield Problem(
            f"{tuning} cannot train weights quantised by {found.name!r}",
            why="quantised weights have no gradient",
            remedy="set finetuning_type: lora, or start from weights that are not quantised",
            keys=("finetuning_type", "quantization_method", "quantization_bit"),
        )


@contextmanager
def plain_config(model: Any) -> Iterator[None]:
    """The configuration as users of the model want it, while files are written: a trainer turns ``use_cache`` off."""
    config = model.config
    kept = getattr(config, "use_cache", None)
    if kept is not None:
        config.use_cache = True
    try:
        yield
    finally:
        if kept is not None:
            config.use_cache = kept


def save_whole(model: PreTrainedModel, folder: Path) -> None:
    """The whole model as safetensors, in the dtype it trained in; tied weights once.

    An adapter that an overwritten run left in the folder goes: transformers would put it on top of these weights.
    """
    with plain_config(model):
        model.save_pretrained(folder)
    for name in ADAPTER_FILES:
        (folder / name).unlink(missing_ok=True)
