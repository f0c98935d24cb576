"""Norms and logits in float32, in a model whose other weights are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_hookspecs import Change, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft_hookspecs import Plan, Problem, Run

ft_api_version = 1


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Kernels that replace the norms whose forward is changed here."""
    if plan.get("upcast_layernorm"):
        why = "its own norms compute in float32 inside, and would take the place of those that are upcast"
        yield from _checks.apart(plan, "upcast_layernorm", {"liger": why, "unsloth": why}, ("upcast_layernorm",))


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Cast what was asked for; what is float32 already is said to be."""
    done = []
    if run.plan.get("upcast_layernorm"):
        norms = upcast_norms(model)
        done.append(f"{len(norms)} norms compute in float32" if norms else "norms are float32 already")
    if run.plan.get("upcast_lmhead_output"):
        done.append(upcast_logits(model))
    return Change(model, "; ".join(done) or "nothing is upcast: neither key is true")


def upcast_norms(model: nn.Module) -> list[str]:
    """Norms of narrower weights: float32 weights and inputs, results in the format of the inputs. Their names."""
    import torch

    cast = []
    for name, module in model.named_modules():
        weights = list(module.parameters(recurse=False))
        if "norm" in type(module).__name__.lower() and any(weight.dtype != torch.float32 for weight in weights):
            for weight in weights:
                weight.data = weight.data.float()
            _compute_in_float(module)
            cast.append(name)
    return cast


def _compute_in_float(module: nn.Module) -> None:
    own = module.forward

    def forward(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        return own(hidden.float(), *args, **kwargs).to(hidden.dtype)

    module.forward = forward


def upcast_logits(model: nn.Module) -> str:
    """The head's result in float32, for whoever asks the model itself for logits."""
    import torch

    from ft.training import base_dtype, unwrap

    base: Any = unwrap(model)
    if base_dtype(model) == torch.float32:
        return "logits are float32 already"
    base.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits.float())
    return "logits are float32 (the loss always computes in float32)"
