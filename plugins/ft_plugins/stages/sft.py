"""Supervised fine-tuning: cross-entropy on the assistant's turns, averaged over a whole optimizer step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from ft.options import DataOptions, PackingOptions, idle_generation_keys
from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.stages import _hooks
from ft_plugins.stages._predict import remember, source_problems
from ft_plugins.stages._rollouts import room_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Example, Note, Plan, Run

ft_api_version = 1
ft_evaluate = _hooks.evaluate


class SftOptions(PackingOptions):
    """Which tokens of a conversation are learned, by what loss, and what is measured."""

    train_on_prompt: bool = Field(False, description="Learn the prompts too, not only the assistant's turns.")
    mask_history: bool = Field(False, description="Learn only the last assistant turn of each conversation.")
    use_dft_loss: bool = Field(
        False, description="Weight the loss of each token by its own probability: dynamic fine-tuning."
    )
    compute_accuracy: bool = Field(
        False, description="Measure in evaluation the share of the learned tokens that are the most likely ones."
    )
    predict_with_generate: bool = Field(
        False, description="With `do_predict`, answer the evaluation prompts and compare with the data's answers."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return SftOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    options = plan.of(SftOptions)
    if options.train_on_prompt and options.mask_history:
        yield _excludes("train_on_prompt", "mask_history", "one learns every turn, the other only the last answer")
    if options.compute_accuracy and options.predict_with_generate:
        yield _excludes("compute_accuracy", "predict_with_generate", "one compares tokens, the other whole answers")
    if options.packs and plan.get("train_sampling_strategy") not in (None, "random", "sequential"):
        yield _excludes("packing", "train_sampling_strategy", "packed rows are all of one length")
    if options.packs and plan.of(DataOptions).streaming and plan.get("max_steps", -1) <= 0:
        yield Problem(
            "packing a stream needs max_steps",
            why="how many rows the samples will fill is known only at the end",
            remedy="set max_steps, or take packing or streaming out",
            keys=("packing", "neat_packing", "streaming"),
        )
    if options.predict_with_generate != bool(plan.get("do_predict")):
        yield Problem(
            "do_predict and predict_with_generate need each other",
            why="what sft predicts are generated answers",
            remedy="set both to true, or take both out",
            keys=("do_predict", "predict_with_generate"),
        )
    elif options.predict_with_generate:
        yield from room_problems(plan)
        yield from source_problems(plan)
    yield from idle_generation_keys(plan, generates=options.predict_with_generate)


def _excludes(one: str, other: str, why: str) -> Problem:
    return Problem(f"{one} and {other} exclude each other", why=why, remedy="choose one", keys=(other, one))


@hookimpl
def ft_check_examples(plan: Plan, examples: Sequence[Example]) -> None:
    from ft.data import check_supervised

    check_supervised(examples, train_on_prompt=plan.of(SftOptions).train_on_prompt)


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import SPLIT, prepare_supervised
    from ft_plugins.stages._packing import pack_block

    options, data = run.plan.of(SftOptions), run.plan.of(DataOptions)
    prepare = partial(prepare_supervised, train_on_prompt=options.train_on_prompt, mask_history=options.mask_history)
    if (split := run.stash.get(SPLIT, "train")) != "train":
        remember(run, split, examples)
    elif options.packs and data.streaming:
        prepare = partial(prepare, finish=partial(pack_block, capacity=data.cutoff_len))
    return prepare(run, examples, counts)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._packing import pack_rows
    from ft_plugins.stages._trainers.sft import SftTrainer

    options = run.plan.of(SftOptions)
    if options.packs and hasattr(run.train_dataset, "__len__"):  # a stream is packed as it is read
        run.train_dataset = pack_rows(run, run.train_dataset)
    return SftTrainer.for_run(run, callbacks, dft=options.use_dft_loss, accuracy=options.compute_accuracy)


@hookimpl
def ft_predict(run: Run, trainer: Trainer) -> Mapping[str, float]:
    from ft_plugins.stages._predict import predict

    return predict(run, trainer)
