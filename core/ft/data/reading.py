"""Examples of a data set. The order is load → num_samples → max_samples → convert → concatenate → split."""

from __future__ import annotations

import random
from itertools import islice
from typing import TYPE_CHECKING

from ft.data.sources import dataset_sources
from ft.errors import ConfigError, DataError, FtError, PluginError
from ft.options import DataOptions
from ft_hookspecs import DataCounts, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pluggy import HookRelay

    from ft_hookspecs import DatasetSource, Example, FormatReader, Plan

LoadedRow = Row | Exception
"""A row, or the error that says why it could not be read."""

SKIP_HINT = "or leave such rows out and count them with on_bad_row: skip"


def load_splits(hook: HookRelay, plan: Plan) -> Iterator[tuple[str, list[Example], DataCounts]]:
    """The splits of a run with what became of their rows: ``train``, then ``eval`` if anything is to evaluate on.

    Raises:
        ConfigError: ``do_train`` without a ``dataset``.
        DataError: as for :func:`load_examples` and :func:`split_validation`.
    """
    options = plan.of(DataOptions)
    if not options.dataset and plan.get("do_train", True):
        raise ConfigError("no data set to train on", why="do_train is on and dataset is not set", remedy="give dataset")
    if options.dataset:
        counts = DataCounts()
        examples = load_examples(hook, plan, "dataset", counts)
        train, held_out = split_validation(examples, options.val_size, plan.get("seed", 42))
        counts.examples = len(train)
        yield "train", train, counts
        if held_out:
            yield "eval", held_out, DataCounts(rows=len(held_out), examples=len(held_out))
    if options.eval_dataset:
        counts = DataCounts()
        yield "eval", load_examples(hook, plan, "eval_dataset", counts), counts


def load_examples(hook: HookRelay, plan: Plan, key: str, counts: DataCounts) -> list[Example]:
    """The examples of every data set that ``key`` names, one after the other.

    Raises:
        DataError: a data set that cannot be found or read, a bad row, or no example at all.
    """
    examples = [
        example for source in dataset_sources(plan, key) for example in read_examples(hook, plan, source, counts)
    ]
    if not examples:
        raise DataError(
            f"no row of {key} can be used",
            why="; ".join(f"{reason}: {count} rows" for reason, count in counts.dropped.items()),
            remedy="correct the rows; without on_bad_row: skip the first of them is shown",
        )
    return examples


def read_examples(hook: HookRelay, plan: Plan, source: DatasetSource, counts: DataCounts) -> Iterator[Example]:
    """The examples of one data set. ``counts`` grows as they are read.

    Raises:
        DataError: nobody can read the source or its columns, it has no rows, or, unless ``on_bad_row`` is ``skip``, a
            row is bad. What breaks a file as a whole (not one row) is an error whatever ``on_bad_row`` says.
        PluginError: a format failed in a way that it did not foresee.
    """
    skip = plan.of(DataOptions).on_bad_row == "skip"
    reader: FormatReader | None = None
    empty = True
    for row in _chosen_rows(hook, plan, source):
        empty = False
        counts.rows += 1
        if reader is None and isinstance(row, Row):
            reader = _reader(hook, plan, source, row)
        try:
            example = _convert(row, reader)
        except DataError as error:
            drop_or_raise(error, skip, counts)
            continue
        counts.examples += 1
        yield example
    if empty:
        raise DataError(f"the data set {source.name!r} has no rows", where=source.location, remedy="give another")


def drop_or_raise(error: DataError, skip: bool, counts: DataCounts) -> None:
    """Count a bad row by the rule it broke, or raise the error with the hint that rows can be skipped."""
    if not skip:
        remedy = f"{error.remedy}; {SKIP_HINT}" if error.remedy else SKIP_HINT.removeprefix("or ")
        raise DataError(error.what, where=error.where, why=error.why, remedy=remedy) from None
    counts.drop(error.why or error.what)


def _chosen_rows(hook: HookRelay, plan: Plan, source: DatasetSource) -> Iterable[LoadedRow]:
    """``num_samples`` rows at random (each once before any twice), then the first ``max_samples``."""
    rows: Iterable[LoadedRow] | None = hook.ft_load_dataset(plan=plan, source=source)
    if rows is None:
        raise DataError(
            f"no plugin can read the data set {source.name!r}",
            where=source.location,
            remedy="`ft plugins list` shows what reads data sets",
        )
    if source.num_samples is not None:
        rows = _sample(list(rows), source.num_samples, plan.get("seed", 42))
    return islice(rows, plan.of(DataOptions).max_samples)


def _sample(rows: Sequence[LoadedRow], size: int, seed: int) -> list[LoadedRow]:
    draw = random.Random(seed)  # noqa: S311 - a reproducible choice of rows, not a secret
    sample = draw.sample(rows, min(size, len(rows)))
    return sample + draw.choices(rows, k=size - len(sample)) if rows else []


def _reader(hook: HookRelay, plan: Plan, source: DatasetSource, row: Row) -> FormatReader:
    columns = tuple(row.data)
    reader: FormatReader | None = hook.ft_read_format(plan=plan, source=source, columns=columns)
    if reader is not None:
        return reader
    if source.formatting:
        raise DataError(
            f"unknown formatting {source.formatting!r} of the data set {source.name!r}",
            where=source.declared_at or row.where,
            remedy="`ft plugins list` shows the formats among the datasets plugins",
        )
    raise DataError(
        f"no format fits the columns of the data set {source.name!r}: {', '.join(map(str, columns)) or 'none'}",
        where=row.where,
        remedy="declare it in dataset_info.json with `formatting` and `columns`",
    )


def _convert(row: LoadedRow, reader: FormatReader | None) -> Example:
    if isinstance(row, Exception):
        raise row
    assert reader is not None
    try:
        return reader(row)
    except FtError:
        raise
    except Exception as error:
        function = getattr(reader, "func", reader)  # of a partial
        raise PluginError(
            f"the format reader of {getattr(function, '__module__', function)} failed on a row",
            where=row.where,
            why=f"{type(error).__name__}: {error}",
            remedy="report it to the plugin's author",
        ) from error


def split_validation(examples: Sequence[Example], val_size: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training examples and a random held-out part, each in the order of ``examples``.

    Args:
        examples: what to split.
        val_size: below 1 a share, from 1 a number of examples; 0 holds out nothing.
        seed: the same seed holds out the same examples.

    Raises:
        DataError: one of the two parts would be empty.
    """
    if not val_size:
        return list(examples), []
    size = round(val_size * len(examples)) if val_size < 1 else int(val_size)
    if not 0 < size < len(examples):
        nothing = "train" if size else "evaluate"
        raise DataError(
            f"val_size {val_size:g} of {len(examples)} examples leaves nothing to {nothing} on",
            remedy="choose another val_size, or give eval_dataset",
        )
    chosen = set(random.Random(seed).sample(range(len(examples)), size))  # noqa: S311 - reproducible, not secret
    return (
        [example for index, example in enumerate(examples) if index not in chosen],
        [example for index, example in enumerate(examples) if index in chosen],
    )
