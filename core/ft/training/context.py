"""Samples longer than what a model was made for: refused where it has no such positions, told where it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ft.data import answer_room
from ft.errors import ConfigError
from ft.options import DataOptions
from ft.training.capability import positions, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import Run

OFFSET = 2
"""Rows that some models' tables of positions have besides (OPT's)."""


def has_table(model: nn.Module, limit: int) -> bool:
    """Whether positions are looked up, so that there are none beyond the limit; else they are computed."""
    base: Any = unwrap(model)
    tables = (module for module in base.modules() if isinstance(module, nn.Embedding))
    return any(
        table is not base.get_input_embeddings() and table.num_embeddings in (limit, limit + OFFSET) for table in tables
    )


def check_context(run: Run) -> None:
    """Call it once the model is there and the data is prepared.

    Raises:
        ConfigError: samples are longer than the model's table of positions.
    """
    assert run.model is not None
    limit = positions(run.model)
    if not limit or run.plan.of(DataOptions).cutoff_len <= limit:  # usual, and no length need be read
        return
    longest = longest_sample(run)
    if longest <= limit:
        return
    if has_table(run.model, limit):
        raise ConfigError(
            f"samples have up to {longest:,} tokens, and the model has {limit:,} positions",
            where=str(run.plan.sources.get("cutoff_len", "cutoff_len")),
            why="its positions are a table, which ends there",
            remedy=f"set cutoff_len: {limit}",
        )
    if not run.plan.get("rope_scaling"):
        run.decide(
            f"samples have up to {longest:,} tokens, more than the {limit:,} that the model was made for: "
            f"set cutoff_len: {limit}, or rope_scaling"
        )


def longest_sample(run: Run) -> int:
    """Tokens of the longest sequence that the model will see; of a stream, the most that it can be."""
    cutoff_len = run.plan.of(DataOptions).cutoff_len
    datasets = [each for each in (run.train_dataset, *run.eval_datasets.values()) if each is not None]
    return min(cutoff_len, max((_longest(run, each) for each in datasets), default=0))


def _longest(run: Run, dataset: Any) -> int:
    columns: Iterable[str] = getattr(dataset, "column_names", None) or ()
    if not hasattr(dataset, "__len__"):
        return run.plan.of(DataOptions).cutoff_len
    if "length" not in columns or not len(dataset):
        return 0
    room = answer_room(run.plan) if "answer" in columns else 0  # a prompt, which is answered
    return int(max(dataset["length"])) + room
