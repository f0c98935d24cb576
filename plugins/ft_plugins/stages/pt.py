"""Pretraining on plain text: cross-entropy on every token of blocks that fill ``cutoff_len``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ft_hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasets import Dataset
    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import DataCounts, Example, Run

ft_api_version = 1


@hookimpl
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    from ft.data import prepare_text

    return prepare_text(run, examples, counts)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import PackedTrainer

    return PackedTrainer.for_run(run, callbacks)


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    from ft.training import evaluate_loss

    losses = evaluate_loss(run, trainer, when)
    return {**losses, **{name.replace("loss", "perplexity"): math.exp(loss) for name, loss in losses.items()}}
