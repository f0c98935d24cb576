"""Answers to the prompts of the evaluation data, beside the data's own, in ``generated_predictions.jsonl``."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from ft.files import PREDICTIONS
from ft.options import GenerationOptions
from ft_hookspecs import DataCounts, Problem, StashKey
from ft_plugins.stages._rollouts import answer_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from datasets import Dataset
    from transformers import Trainer

    from ft_hookspecs import Example, Plan, Run

    Conversations = Mapping[str, Iterable[Example]]

BATCHES: Final = 4
"""Batches that each process answers before their lines are written: prompts of similar length share a batch."""

CONVERSATIONS: Final = StashKey["Conversations"]("conversations of the evaluation sets")


def source_problems(plan: Plan) -> Iterator[Problem]:
    """Conversations are asked for, and ``tokenized_path`` alone holds but their tokens."""
    if plan.get("tokenized_path") and not (plan.get("dataset") or plan.get("eval_dataset")):
        yield Problem(
            "predict_with_generate needs the data itself",
            why="the questions are asked again, and tokenized_path holds whole conversations as tokens",
            remedy="give eval_dataset, or dataset with val_size",
            keys=("predict_with_generate", "tokenized_path"),
        )


def remember(run: Run, split: str, examples: Iterable[Example]) -> None:
    """Keep the conversations of an evaluation set, to ask their questions later; they are read anew, not held."""
    known: Conversations = run.stash.get(CONVERSATIONS, {})
    run.stash[CONVERSATIONS] = {**known, split: examples}


def predict(run: Run, trainer: Trainer) -> Mapping[str, float]:
    """Answer each evaluation set into a file of its own.

    Returns:
        ``predict_bleu-4``, ``predict_rouge-1``, ``-2``, ``-l`` (percent), ``predict_runtime`` (seconds) and
        ``predict_samples_per_second``; with several sets ``predict_<set>_…``.
    """
    metrics: dict[str, float] = {}
    for name, examples in run.stash[CONVERSATIONS].items():
        infix = f"{name}_" if len(run.eval_datasets) > 1 else ""
        path = run.output_dir / f"{infix.replace('/', '-')}{PREDICTIONS}"
        measured = _predict_set(run, trainer, _prompts(run, name, examples), path)
        metrics |= {f"predict_{infix}{key}": value for key, value in measured.items()}
        run.tell(f"predictions: {path}")
    return metrics


def _prompts(run: Run, name: str, examples: Iterable[Example]) -> Dataset:
    from ft.data import NO_SPLIT, SPLIT, prepare_prompts

    run.stash[SPLIT] = NO_SPLIT
    asked = run.counts[name].examples
    counts = run.counts[f"{name} prompts"] = DataCounts(asked, asked)
    prompts = prepare_prompts(run, examples, counts)
    run.tell(f"data: {name} prompts: {counts}")
    return prompts


def _predict_set(run: Run, trainer: Trainer, prompts: Dataset, path: Path) -> dict[str, float]:
    """Whole lines are written, in order, as answers come: what a killed run leaves can be read."""
    from ft_plugins.stages._scores import scores

    begin, rows = perf_counter(), []
    target = path if trainer.is_world_process_zero() else Path(os.devnull)
    with target.open("wb", buffering=0) as file:  # unbuffered: each line is one write, never half of one
        for row in _answered(run, trainer, prompts):
            rows.append(row)
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    seconds = perf_counter() - begin
    similar = scores([row["predict"] for row in rows], [row["label"] for row in rows])
    return {**similar, "runtime": round(seconds, 4), "samples_per_second": round(len(rows) / seconds, 3)}


def _answered(run: Run, trainer: Trainer, prompts: Dataset) -> Iterator[dict[str, str]]:
    """Rows of the file in the order of the data, some batches of each process at a time."""
    from accelerate.utils import gather_object
    from transformers import set_seed

    from ft.training import generate

    assert run.model is not None
    assert run.tokenizer is not None
    assert run.template is not None
    processes, batch = trainer.args.world_size, trainer.args.per_device_eval_batch_size
    settings = {
        "stop": run.template.stop,
        "batch_size": batch,
        "skip_special_tokens": run.plan.of(GenerationOptions).skip_special_tokens,
        **answer_settings(run),
    }
    set_seed(trainer.args.seed)  # what is drawn does not depend on the training before it
    for part in prompts.iter(batch * BATCHES * processes):
        mine = part["prompt"][trainer.args.process_index :: processes]
        answers = gather_object(generate(run.model, run.tokenizer, mine, **settings))
        order = chain.from_iterable(range(first, len(part["prompt"]), processes) for first in range(processes))
        in_order = [answer for _, answer in sorted(zip(order, answers, strict=True))]
        rows = zip(part["prompt"], in_order, part["answer"], strict=True)
        yield from ({"prompt": prompt, "predict": answer, "label": label} for prompt, answer, label in rows)
