"""What every adapter does with the weights that train."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ft.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from ft_hookspecs import Plan


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
