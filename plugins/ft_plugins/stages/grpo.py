"""Group relative policy optimisation: raise the reward of what the model writes, answer against answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.stages._group import REQUIRES, GroupOptions, group_memory, group_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Estimate, Example, Plan, Run

ft_api_version = 1
ft_requires = REQUIRES


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
def ft_check(plan: Plan) -> Iterator[Problem]:
    return group_problems(plan, plan.of(GrpoOptions), "grpo")


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return group_memory(plan, estimate, plan.of(GrpoOptions))


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_prompts

    return prepare_prompts(run, examples, counts)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.group import GrpoTrainer

    return GrpoTrainer.for_run(run, callbacks, run.plan.of(GrpoOptions))


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_measures

    return evaluate_measures(run, trainer, when)
