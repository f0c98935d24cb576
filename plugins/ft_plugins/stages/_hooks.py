"""Hooks that are the same for several stages, which take them over under the names of the hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datasets import Dataset
    from transformers import Trainer

    from ft_hookspecs import DataCounts, Example, Run


@hookimpl
def evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    """What the stage's trainer measures, on each evaluation set."""
    from ft.training import evaluate_measures

    return evaluate_measures(run, trainer, when)


@hookimpl
def check_pairs(examples: Sequence[Example]) -> None:
    """For stages that compare two answers, as is the next."""
    from ft.data import check_pairs

    check_pairs(examples)


@hookimpl
def prepare_pairs(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_pairs

    return prepare_pairs(run, examples, counts)


@hookimpl
def check_prompts(examples: Sequence[Example]) -> None:
    """For stages that learn from the model's own answers, as is the next."""
    from ft.data import check_prompts

    check_prompts(examples)


@hookimpl
def prepare_prompts(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_prompts

    return prepare_prompts(run, examples, counts)
