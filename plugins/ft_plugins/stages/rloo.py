"""REINFORCE leave-one-out: raise the reward of what the model writes, each answer against the mean of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class RlooOptions(GroupOptions):
    """The penalty in the reward, and what becomes of advantages."""

    num_generations: int = Field(2, ge=2, description="Answers drawn for each prompt, which are judged together.")
    beta: float = Field(
        0.05, ge=0, description="Weight of the KL to the model as it was before training, in the reward; 0: none."
    )
    normalize_advantages: bool = Field(
        False, description="Scale the advantages of a batch to mean 0 and standard deviation 1."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return RlooOptions


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.group import RlooTrainer

    return RlooTrainer.for_run(run, callbacks, run.plan.of(RlooOptions))
