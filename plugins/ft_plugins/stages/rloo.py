"""REINFORCE leave-one-out: raise the reward of what the model writes, each answer against the mean of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
def ft_check(plan: Plan) -> Iterator[Problem]:
    return group_problems(plan, plan.of(RlooOptions), "rloo")


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return group_memory(plan, estimate, plan.of(RlooOptions))


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_prompts

    return prepare_prompts(run, examples, counts)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.group import RlooTrainer

    return RlooTrainer.for_run(run, callbacks, run.plan.of(RlooOptions))


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_measures

    return evaluate_measures(run, trainer, when)
