"""APOLLO: gradients scaled by what AdamW would do to a random projection of them (Zhu et al., 2412.05270)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.optimizers import _estimate
from ft_plugins.optimizers._checks import optim_problems, whole_weights, within_backward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Estimate, Plan, Run

ft_requires: Final = dict.fromkeys(("apollo_torch", "bitsandbytes"), "pip install 'ft-framework[apollo]'")


class ApolloOptions(PluginOptions):
    """Which weights, how few dimensions, and what is scaled."""

    apollo_target: list[str] = Field(
        default=["all"], description="Linear layers, or modules that hold some, whose gradients are projected."
    )
    apollo_rank: int = Field(default=16, gt=0, description="Dimensions of a projected gradient; 1 is APOLLO-Mini.")
    apollo_update_interval: int = Field(default=200, gt=0, description="Steps between two projections.")
    apollo_scale: float = Field(
        default=32.0, gt=0, description="The square root of this scales the steps of projected weights."
    )
    apollo_proj: Literal["svd", "random"] = Field(default="random", description="How a projection is found.")
    apollo_proj_type: Literal["std", "right", "left"] = Field(
        default="std", description="Which side of a weight is projected; `std` the larger one."
    )
    apollo_scale_type: Literal["channel", "tensor"] = Field(
        default="channel", description="Scale each channel of a gradient, or the gradient as a whole."
    )
    apollo_layerwise: bool = Field(
        default=False, description="Step each weight within the backward pass, so that gradients take no memory."
    )
    apollo_scale_front: bool = Field(
        default=False, description="Apply `apollo_scale` before the limit on a step's growth, not after it."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return ApolloOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    options = plan.of(ApolloOptions)
    yield from optim_problems(plan, "apollo")
    yield from whole_weights(plan, "apollo", "it projects the gradients of whole weight matrices")
    if options.apollo_layerwise:
        yield from within_backward(plan, "apollo_layerwise")
    if options.apollo_proj_type != "std" and options.apollo_scale_type == "channel":
        yield Problem(
            f"apollo_proj_type: {options.apollo_proj_type} with apollo_scale_type: channel",
            why="channels lie along the larger side of a weight, which only std projects for every weight",
            remedy="set apollo_proj_type: std, or apollo_scale_type: tensor",
            keys=("apollo_proj_type", "apollo_scale_type"),
        )


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    options = plan.of(ApolloOptions)
    found = _estimate.projected(estimate, options.apollo_target, options.apollo_rank, options.apollo_proj_type)
    return _estimate.freed(found) if options.apollo_layerwise else found


@hookimpl
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer:
    from apollo_torch import APOLLOAdamW

    from ft.training import parameter_groups
    from ft_plugins.optimizers._steps.low_rank import projected_groups, resumable, step_in_backward

    plan, options = run.plan, run.plan.of(ApolloOptions)
    settings = {
        "rank": options.apollo_rank,
        "proj": options.apollo_proj,
        "scale_type": options.apollo_scale_type,
        "update_proj_gap": options.apollo_update_interval,
        "scale": options.apollo_scale,
        "proj_type": options.apollo_proj_type,
    }
    where = str(plan.sources.get("apollo_target", ""))
    groups = parameter_groups(run, model)
    groups = projected_groups(groups, model, options.apollo_target, settings, "apollo_target", where)
    optimizer: Optimizer = resumable(APOLLOAdamW, APOLLOAdamW._initialize_projector)(
        groups,
        lr=plan.get("learning_rate"),
        betas=(plan.get("adam_beta1"), plan.get("adam_beta2")),
        eps=plan.get("adam_epsilon"),
        scale_front=options.apollo_scale_front,
    )
    return step_in_backward(optimizer, run) if options.apollo_layerwise else optimizer
