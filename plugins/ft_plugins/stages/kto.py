"""Preference optimisation on answers that are judged good or bad, one by one: KTO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ft.errors import DataError
from ft.options import idle_generation_keys
from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.stages import _hooks, _memory
from ft_plugins.stages._preference import PreferenceOptions, reference_problems, start_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Estimate, Example, Note, Plan, Run

ft_api_version = 1
ft_evaluate = _hooks.evaluate


class KtoOptions(PreferenceOptions):
    """How much the good and the bad answers weigh."""

    kto_chosen_weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Weight of the loss of answers that are good (desirable)."
    )
    kto_rejected_weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Weight of the loss of answers that are bad (undesirable)."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return KtoOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    if plan.get("streaming"):
        yield Problem(
            "kto cannot learn from a stream",
            why="each answer is compared with the answer to another prompt, drawn from all of the data in each epoch",
            remedy="leave streaming out",
            keys=("streaming",),
        )
    yield from reference_problems(plan)
    yield from start_problems(plan, "kto")
    yield from idle_generation_keys(plan, generates=False)


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return _memory.mismatched(plan, estimate)


@hookimpl
def ft_check_examples(examples: Sequence[Example]) -> None:
    from ft.data import check_feedback

    check_feedback(examples)


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    """Judged answers as tokens.

    Raises:
        DataError: those to train on are all good or all bad, or there is only one to evaluate on.
    """
    from ft.data import NO_SPLIT, SPLIT, prepare_feedback

    samples = prepare_feedback(run, examples, counts)
    split = run.stash.get(SPLIT, "train")
    if split == "train" and run.plan.get("do_train", True):
        _check_kinds(run, samples.unique("desirable"))
    elif split not in ("train", NO_SPLIT) and len(samples) == 1:
        raise DataError(
            "a single answer to evaluate on",
            where=str(run.plan.sources.get("eval_dataset" if run.plan.get("eval_dataset") else "val_size", split)),
            why="the KL is estimated with the answer to another prompt",
            remedy="evaluate on at least two",
        )
    return samples


def _check_kinds(run: Run, kinds: list[bool]) -> None:
    if len(kinds) == 1:
        kind, other = ("good", "bad") if kinds[0] else ("bad", "good")
        raise DataError(
            f"every answer to learn from is marked {kind}",
            where=str(run.plan.sources.get("dataset", "dataset")),
            why=f"without {other} answers nothing holds the others back; a weight cannot repair that",
            remedy=f"add answers that are marked {other}, or learn the good ones with stage: sft",
        )


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.kto import build_trainer

    return build_trainer(run, callbacks)
