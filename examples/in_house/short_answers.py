"""A stage of our own: supervised fine-tuning in which a long answer counts less, so that the model learns brevity."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from ft_hookspecs import PluginOptions, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Example, Message, Run

ft_api_version = 1


class ShortAnswersOptions(PluginOptions):
    """How short is short."""

    short_answers_words: int = Field(
        12, gt=0, description="Words of an answer that counts in full; one of twice as many counts half."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return ShortAnswersOptions


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_supervised

    words = run.plan.of(ShortAnswersOptions).short_answers_words
    weighed = (replace(e, messages=tuple(weigh(message, words) for message in e.messages)) for e in examples)
    return prepare_supervised(run, weighed, counts)


def weigh(message: Message, words: int) -> Message:
    """The message with the weight of its length; a weight from the data is kept as a factor."""
    return replace(message, weight=message.weight * min(1.0, words / max(1, len(message.content.split()))))


# The rest is what the built-in stage does.


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import PackedTrainer

    return PackedTrainer.for_run(run, callbacks)


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_loss

    return evaluate_loss(run, trainer, when)
