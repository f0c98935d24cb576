"""Group relative policy optimisation: raise the reward of what the model writes, answer against answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ft_hookspecs import PluginOptions, hookimpl
from ft_plugins.stages import _hooks
from ft_plugins.stages._group import REQUIRES, GroupOptions
from ft_plugins.stages._group import ft_check as ft_check
from ft_plugins.stages._group import ft_estimate as ft_estimate

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import Run

ft_api_version = 1
ft_requires = REQUIRES
ft_check_examples = _hooks.check_prompts
ft_prepare_dataset = _hooks.prepare_prompts
ft_evaluate = _hooks.evaluate


class GrpoOptions(GroupOptions):
    """The loss, and how rewards of a group become advantages."""

    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = Field(
        "dapo", description="What the loss of a token is divided by: its answer's length, a constant, all tokens …"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Whose standard deviation an advantage is divided by."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return GrpoOptions


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.group import GrpoTrainer

    return GrpoTrainer.for_run(run, callbacks, run.plan.of(GrpoOptions))
