"""Adam-mini: Adam with one second moment for each head, neuron or token instead of each weight (2406.16793)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from ft_hookspecs import Problem, hookimpl
from ft_plugins.optimizers._checks import optim_problems, whole_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Estimate, Plan, Run

ft_requires: Final = {"adam_mini": "pip install 'ft-framework[adam-mini]'"}


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from optim_problems(plan, "adam_mini")
    yield from whole_weights(plan, "adam_mini", "its blocks are the heads and neurons of whole weight matrices")


@hookimpl
def ft_estimate(estimate: Estimate) -> Estimate:
    """The first moment; the second ones are a number a row."""
    return replace(estimate, state_bytes=float(estimate.trained_bytes))


@hookimpl
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer:
    from adam_mini import Adam_mini

    from ft.training import parameter_groups

    plan, whole = run.plan, cast("Any", run.model)
    config = whole.config.get_text_config()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    heads = config.num_attention_heads
    optimizer: Any = Adam_mini(
        named,
        lr=plan.get("learning_rate"),
        betas=(plan.get("adam_beta1"), plan.get("adam_beta2")),
        eps=plan.get("adam_epsilon"),
        dim=config.hidden_size,
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", heads),
        verbose=False,
    )
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    optimizer.head_numel = head_size * config.hidden_size  # the library takes hidden_size / heads for granted
    optimizer.world_size = 1  # it counts visible GPUs, and would wait for processes that are not there
    _fit(optimizer, parameter_groups(run, model))
    return cast("Optimizer", optimizer)


def _fit(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """The library makes a group of each parameter: give it the settings of ours, and blocks that fit its shape."""
    settings = {id(parameter): group for group in groups for parameter in group["params"]}
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        group.update({key: value for key, value in settings[id(parameter)].items() if key != "params"})
        if parameter.ndim < 2 and "bias" not in group["name"]:
            group["name"] = "norm"  # some names of norms (final_layernorm) read as those of matrices
