"""Muon: orthogonalised momentum for the matrices of hidden layers, AdamW for all else (Liu et al., 2502.16982)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ft_hookspecs import Problem, hookimpl
from ft_plugins.optimizers._checks import optim_problems, whole_weights
from ft_plugins.optimizers._estimate import with_states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Estimate, Plan, Run


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from optim_problems(plan, "muon")
    yield from whole_weights(plan, "muon", "it orthogonalises whole matrices", adapters=True)


@hookimpl
def ft_estimate(estimate: Estimate) -> Estimate:
    """One momentum for each weight of a matrix; those of LoRA are matrices all."""
    if estimate.added:
        return replace(estimate, state_bytes=float(estimate.trained_bytes))
    return with_states(estimate, {name: out * into for name, (out, into) in estimate.shape.matrices.items()})


@hookimpl
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer:
    from torch.optim import AdamW, Muon

    from ft.training import parameter_groups
    from ft_plugins.optimizers._steps.parts import Parts

    plan, groups = run.plan, parameter_groups(run, model)
    matrices = _matrices(model)
    betas = (plan.get("adam_beta1"), plan.get("adam_beta2"))
    hidden, others = _only(groups, matrices, inside=True), _only(groups, matrices, inside=False)
    parts: list[Optimizer] = []
    if hidden:  # the adjustment makes a step as long as AdamW's, so that learning_rate means the same
        parts.append(Muon(hidden, adjust_lr_fn="match_rms_adamw"))
    if others:
        parts.append(AdamW(others, betas=betas, eps=plan.get("adam_epsilon")))
    count = sum(len(group["params"]) for group in hidden)
    run.decide(f"muon: {count} matrices; AdamW for {sum(len(group['params']) for group in others)} other parameters")
    return Parts(*parts)


def _matrices(model: nn.Module) -> set[int]:
    """The weights of linear layers, without the heads, whose rows are tokens or a score."""
    from ft_plugins.adapters._targets import linear_layers

    modules = dict(model.named_modules())
    weights = [modules[name].weight for name in linear_layers(model) if "value_head" not in name]
    return {id(weight) for weight in weights if weight.ndim == 2 and min(weight.shape) > 1}


def _only(groups: list[dict[str, Any]], chosen: set[int], *, inside: bool) -> list[dict[str, Any]]:
    split = [{**group, "params": [one for one in group["params"] if (id(one) in chosen) is inside]} for group in groups]
    return [group for group in split if group["params"]]
