"""Pretraining on plain text: cross-entropy on every token of blocks that fill ``cutoff_len``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ft.options import PackingOptions, idle_generation_keys
from ft_hookspecs import PluginOptions, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Example, Note, Plan, Run

ft_api_version = 1


class PtOptions(PackingOptions):
    """How texts become blocks: unless ``packing`` is false, one goes on where the last one ended."""


@hookimpl
def ft_options() -> type[PluginOptions]:
    return PtOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    if plan.get("do_predict"):
        yield Problem(
            "pt predicts nothing", why="plain texts have no answers", remedy="take do_predict out", keys=("do_predict",)
        )
    yield from idle_generation_keys(plan, generates=False)


@hookimpl
def ft_check_examples(examples: Sequence[Example]) -> None:
    from ft.data import check_text

    check_text(examples)


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_text

    return prepare_text(run, examples, counts, joined=run.plan.of(PtOptions).packs is not False)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import PackedTrainer

    return PackedTrainer.for_run(run, callbacks)


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_loss

    losses = evaluate_loss(run, trainer, when)
    return {**losses, **{name.replace("loss", "perplexity"): math.exp(loss) for name, loss in losses.items()}}
