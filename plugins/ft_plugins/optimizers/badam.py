"""BAdam: AdamW on one layer, or on a share of each weight, at a time (Luo et al., 2404.02827)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ft.errors import ConfigError
from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.optimizers._checks import one_process, optim_problems, whole_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Estimate, Plan, Run

ft_requires: Final = {"badam": "pip install 'ft-framework[badam]'"}


class BadamOptions(PluginOptions):
    """What is trained at a time, and for how long."""

    badam_mode: Literal["layer", "ratio"] = Field(
        default="layer", description="Train one layer at a time, or a share of the entries of every weight."
    )
    badam_start_block: int | None = Field(
        default=None, ge=0, description="The layer to start with, counted from 0. Unset: as the order says."
    )
    badam_switch_mode: Literal["ascending", "descending", "random", "fixed"] = Field(
        default="ascending", description="The order of the layers."
    )
    badam_switch_interval: int = Field(default=50, gt=0, description="Steps on the same layer or entries.")
    badam_update_ratio: float = Field(default=0.05, gt=0, lt=1, description="Share of entries that train at a time.")
    badam_mask_mode: Literal["adjacent", "scatter"] = Field(
        default="adjacent", description="Whether these entries lie side by side or anywhere."
    )
    badam_verbose: int = Field(default=0, ge=0, le=2, description="1 prints each switch, 2 the weights' names too.")


@hookimpl
def ft_options() -> type[PluginOptions]:
    return BadamOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    options = plan.of(BadamOptions)
    yield from optim_problems(plan, "badam")
    yield from whole_weights(plan, "badam", "it switches whole layers on and off")
    yield from one_process("use_badam", "processes exchange the gradients of a fixed set of weights")
    if options.badam_mode == "ratio":
        yield from _ratio_problems(plan)
    elif options.badam_switch_mode == "fixed" and options.badam_start_block is None:
        yield Problem(
            "badam_switch_mode: fixed without badam_start_block",
            why="one layer trains throughout, and nothing says which",
            remedy="set badam_start_block",
            keys=("badam_switch_mode",),
        )


def _ratio_problems(plan: Plan) -> Iterator[Problem]:
    if plan.get("gradient_accumulation_steps", 1) != 1:
        yield Problem(
            f"badam_mode: ratio with gradient_accumulation_steps: {plan.get('gradient_accumulation_steps')}",
            why="the entries are chosen again within a step, so that its gradients could not be added",
            remedy="set gradient_accumulation_steps: 1",
            keys=("gradient_accumulation_steps", "badam_mode"),
        )
    if plan.get("weight_decay"):
        yield Problem(
            "badam_mode: ratio with weight_decay",
            why="the library does not decay the entries",
            remedy="set weight_decay: 0, or badam_mode: layer",
            keys=("weight_decay", "badam_mode"),
        )
    if plan.get("fp16"):
        yield Problem(
            "badam_mode: ratio with fp16",
            why="its gradients are sparse, and scaled ones cannot be scaled back",
            remedy="use bf16: true",
            keys=("fp16", "badam_mode"),
        )


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    """A layer's gradients, and its fp32 copy with two moments. In ``ratio`` mode: unknown."""
    if plan.of(BadamOptions).badam_mode == "ratio":
        return estimate
    layer = sum(out * into for out, into in estimate.shape.matrices.values()) // estimate.shape.layers
    return replace(estimate, trained=layer, state_bytes=12.0, trains_head=False)


@hookimpl
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer:
    options = run.plan.of(BadamOptions)
    return _layers(run, model, options) if options.badam_mode == "layer" else _ratio(run, model, options)


def _trained(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _adam(plan: Plan) -> dict[str, Any]:
    betas = (plan.get("adam_beta1"), plan.get("adam_beta2"))
    return {"lr": plan.get("learning_rate"), "betas": betas, "eps": plan.get("adam_epsilon")}


def _layers(run: Run, model: nn.Module, options: BadamOptions) -> Optimizer:
    import warnings

    from torch.optim import AdamW

    from ft.training import parameter_groups
    from ft_plugins.optimizers._steps.blocks import Layers

    inner = AdamW(parameter_groups(run, model), **_adam(run.plan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that fp32 weights take memory: what trains is fp32 here by choice
        try:
            optimizer = Layers(
                inner,
                _trained(model),
                switch_block_every=options.badam_switch_interval,
                start_block=options.badam_start_block,
                switch_mode=options.badam_switch_mode,
                verbose=options.badam_verbose,
            )
        except IndexError as error:
            raise ConfigError(
                "badam_start_block: no such layer trains",
                where=str(run.plan.sources.get("badam_start_block", "")),
                why="layers that train are counted from 0",
                remedy="set a smaller badam_start_block",
            ) from error
    run.decide(f"badam: one of {optimizer.block_num} layers trains at a time; nothing outside of layers does")
    return optimizer


def _ratio(run: Run, model: nn.Module, options: BadamOptions) -> Optimizer:
    from ft.training import parameter_groups
    from ft_plugins.optimizers._steps.blocks import Ratio, clip_grad_norm

    assert run.trainer is not None
    named = _trained(model)
    optimizer = Ratio(
        parameter_groups(run, model),
        named,
        update_ratio=options.badam_update_ratio,
        verbose=options.badam_verbose,
        switch_every=options.badam_switch_interval,
        mask_mode=options.badam_mask_mode,
        include_embedding=not any("embed" in name for name, _ in named),
        include_lm_head=not any("lm_head" in name for name, _ in named),  # one that is tied has no name of its own
        **_adam(run.plan),
    )
    optimizer.share_masks(run.plan.get("seed", 42))
    run.trainer.accelerator.clip_grad_norm_ = clip_grad_norm  # torch's cannot take the norm of sparse gradients
    run.decide(f"badam: {options.badam_update_ratio:.0%} of each weight trains at a time; embeddings and head do not")
    return optimizer
