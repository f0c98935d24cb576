"""Supervised fine-tuning: cross-entropy on the assistant's turns, averaged over a whole optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ft_hookspecs import PluginOptions, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Example, Plan, Run

ft_api_version = 1


class SftOptions(PluginOptions):
    """Which tokens of a conversation are learned."""

    train_on_prompt: bool = Field(False, description="Learn the prompts too, not only the assistant's turns.")
    mask_history: bool = Field(False, description="Learn only the last assistant turn of each conversation.")


@hookimpl
def ft_options() -> type[PluginOptions]:
    return SftOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    options = plan.of(SftOptions)
    if options.train_on_prompt and options.mask_history:
        yield Problem(
            "train_on_prompt and mask_history cannot both be true",
            why="one learns every turn, the other only the last answer",
            remedy="choose one",
            keys=("mask_history", "train_on_prompt"),
        )


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_supervised

    options = run.plan.of(SftOptions)
    return prepare_supervised(
        run, examples, counts, train_on_prompt=options.train_on_prompt, mask_history=options.mask_history
    )


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import PackedTrainer

    return PackedTrainer.for_run(run, callbacks)


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_loss

    return evaluate_loss(run, trainer, when)
