"""Reward modelling: a value head on the model learns to score a better answer above a worse one.

The loss is -log σ(r_chosen - r_rejected), averaged over the pairs of a whole optimizer step: the Bradley-Terry model of
Ouyang et al. 2022 (arXiv:2203.02155). The score of an answer is taken at its last token, the end of its turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ft.files import PREDICTIONS
from ft.options import idle_generation_keys
from ft_hookspecs import Problem, hookimpl
from ft_plugins.stages import _hooks, _memory
from ft_plugins.stages._heads import own_heads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import Estimate, Note, Plan, Run

ft_api_version = 1
ft_check_examples = _hooks.check_pairs
ft_prepare_dataset = _hooks.prepare_pairs
ft_evaluate = _hooks.evaluate


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    if plan.get("do_predict") and not (plan.get("eval_dataset") or plan.get("val_size")):
        yield Problem(
            "there are no pairs to predict",
            why="do_predict writes the scores of the evaluation data",
            remedy="set eval_dataset or val_size, or take do_predict out",
            keys=("do_predict",),
        )
    yield from idle_generation_keys(plan, generates=False)


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return _memory.pairs(plan, estimate, reference=False)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import attach_value_head
    from ft_plugins.stages._trainers.rm import PairwiseTrainer

    assert run.model is not None
    attach_value_head(run.model, scores_only=True)
    take_up_head(run)
    return PairwiseTrainer.for_run(run, callbacks)


def take_up_head(run: Run) -> None:
    """Start from the value head of the adapter or model that the run starts from, if it has one; said either way."""
    from ft.training import load_value_head

    assert run.model is not None
    for folder in own_heads(run):
        load_value_head(run.model, folder)
        run.decide(f"the value head is that of {folder}")
        return
    run.decide("the value head is new: what this run starts from has none")


@hookimpl
def ft_predict(run: Run, trainer: Trainer) -> Mapping[str, float]:
    """``generated_predictions.jsonl``: both scores of each evaluation pair in order, with several sets their names."""
    several = len(run.eval_datasets) > 1
    metrics: dict[str, float] = {}
    lines: list[str] = []
    for name, dataset in run.eval_datasets.items():
        rows, means = trainer.predictions(dataset, f"predict_{name}" if several else "predict")
        metrics |= means
        lines += [json.dumps({"dataset": name, **row} if several else row) for row in rows]
    if trainer.is_world_process_zero():
        (run.output_dir / PREDICTIONS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return metrics
