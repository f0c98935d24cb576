"""Examples of a data set. The order is load → num_samples → max_samples → convert → hold out → mix.

Every data set is read twice, as a stream: once to count, check and recognise its examples, once to tokenise them.
Examples are held out before the data sets are mixed, so that none is both trained on and measured.
"""

from __future__ import annotations

import gc
import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.data.examples import Examples, Summary, summarise, verified
from ft.data.mixing import mix, mixed_size
from ft.data.rows import Rows, empty
from ft.data.sources import FILE_NAME, dataset_sources
from ft.errors import ConfigError, DataError
from ft.options import DataOptions
from ft_hookspecs import DataCounts, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pluggy import HookRelay

    from ft_hookspecs import DatasetSource, Example, Plan

Split = tuple[str, Examples, DataCounts]

RARELY: Final = 1_000
"""So many collections of the middle generation pass before one of everything."""

SKIP_HINT: Final = "or leave such rows out and count them with on_bad_row: skip"


# ---- splits -------------------------------------------------------------------------------------------------------


def load_splits(hook: HookRelay, plan: Plan) -> Iterator[Split]:
    """The splits of a run with what became of their rows: ``train``, then what there is to evaluate on.

    That is called ``eval``, or each by the name of its data set with ``eval_on_each_dataset``.

    Raises:
        ConfigError: ``do_train`` without a ``dataset``.
        DataError: as for :func:`read_examples`, or ``val_size`` leaves nothing on one side.
    """
    from ft.data.streaming import streamed_splits

    options = plan.of(DataOptions)
    if splits := _kept_splits(options):
        yield from splits
        return
    if not options.dataset and plan.get("do_train", True):
        kept = f", and tokenized_path {options.tokenized_path!r} holds no data" if options.tokenized_path else ""
        raise ConfigError(
            "no data set to train on", why=f"do_train is on and dataset is not set{kept}", remedy="give dataset"
        )
    if options.dataset:
        yield from (streamed_splits if options.streaming else _train_splits)(hook, plan)
    sources = dataset_sources(plan, "eval_dataset")
    if not options.eval_on_each_dataset:
        sources_of = {"eval": sources} if sources else {}
    else:
        sources_of = {split_name(source): [source] for source in sources}
    for name, several in sources_of.items():
        counts = DataCounts()
        yield (
            name,
            _joined([Scanned.of(hook, plan, source, counts) for source in several], "eval_dataset", counts),
            counts,
        )


@contextmanager
def rare_gc() -> Iterator[None]:
    """Young objects are collected as ever; walking all that libraries have imported would take a third of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(*usual[:2], RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _kept_splits(options: DataOptions) -> list[Split]:
    """What lies in ``tokenized_path`` when there is nothing to compare it with: no ``dataset`` and ``eval_dataset``."""
    folder = Path(options.tokenized_path or "")
    if not options.tokenized_path or options.dataset or options.eval_dataset or not folder.is_dir():
        return []
    names = sorted((path.name for path in folder.iterdir() if path.is_dir()), key=lambda name: (name != "train", name))
    return [(name, Examples(lambda: iter(()), None), DataCounts()) for name in names]


def _train_splits(hook: HookRelay, plan: Plan) -> Iterator[Split]:
    options, seed = plan.of(DataOptions), plan.get("seed", 42)
    counts = DataCounts()
    scanned = [Scanned.of(hook, plan, source, counts) for source in dataset_sources(plan)]
    whole = _joined(scanned, "dataset", counts)
    chosen = held_out(len(whole), options.val_size, seed)
    parts = _parts(scanned, chosen)
    mixing = (options.mix_strategy, options.interleave_probs, seed)
    draws = options.val_size or options.interleave_probs
    recipe = (options.val_size, *mixing[:2], seed if draws else None)
    sizes = [len(part) - sum(part) for part in parts]
    if not all(sizes) and options.mix_strategy != "concat":
        raise DataError(
            f"the data set {scanned[sizes.index(0)].source.name!r} has no example to train on",
            why="every data set that is interleaved needs one",
            remedy="take it out of dataset",
        )
    summary = _part_of(whole, mixed_size(sizes, *mixing), "train", *recipe)
    readers = [partial(one.read, part, 0) for one, part in zip(scanned, parts, strict=True)]
    counts.examples = summary.size
    yield "train", Examples(lambda: mix(readers, *mixing), summary), counts
    if any(chosen):
        summary = _part_of(whole, sum(chosen), "eval", *recipe)
        others = [partial(one.read, part, 1) for one, part in zip(scanned, parts, strict=True)]
        yield "eval", Examples(lambda: mix(others), summary), DataCounts(rows=summary.size, examples=summary.size)


def _parts(scanned: Sequence[Scanned], chosen: bytearray) -> list[bytearray]:
    """The share of each data set in what is held out."""
    parts: list[bytearray] = []
    begin = 0
    for one in scanned:
        parts.append(chosen[begin : begin + one.summary.size])
        begin += one.summary.size
    return parts


def _part_of(whole: Examples, size: int, name: str, *by: Any) -> Summary:
    """A part is recognised by the whole and by how it was chosen."""
    assert whole.summary is not None
    return Summary(size, f"{whole.summary.digest} {name} {by!r}", whole.summary.weighted)


def _joined(scanned: Sequence[Scanned], key: str, counts: DataCounts) -> Examples:
    """The examples of several data sets, one after the other.

    Raises:
        DataError: there is not one.
    """
    size = sum(one.summary.size for one in scanned)
    if not size:
        raise DataError(
            f"no row of {key} can be used",
            why="; ".join(f"{reason}: {count} rows" for reason, count in counts.dropped.items()),
            remedy="correct the rows; without on_bad_row: skip the first of them is shown",
        )
    digests = " ".join(one.summary.digest for one in scanned)
    summary = Summary(size, digests, any(one.summary.weighted for one in scanned))
    return Examples(lambda: mix([one.read for one in scanned]), summary)


def held_out(size: int, val_size: float, seed: int) -> bytearray:
    """A 1 for each example that is held out for evaluation; the same ones for one seed.

    Args:
        size: of all examples.
        val_size: below 1 a share, from 1 a number of examples; 0 holds out nothing.
        seed: of the choice.

    Raises:
        DataError: one of the two parts would be empty.
    """
    chosen = bytearray(size)
    if not val_size:
        return chosen
    number = round(val_size * size) if val_size < 1 else int(val_size)
    if not 0 < number < size:
        nothing = "train" if number else "evaluate"
        raise DataError(
            f"val_size {val_size:g} of {size} examples leaves nothing to {nothing} on",
            remedy="choose another val_size, or give eval_dataset",
        )
    for index in random.Random(seed).sample(range(size), number):  # noqa: S311 - reproducible, not secret
        chosen[index] = 1
    return chosen


def split_name(source: DatasetSource) -> str:
    """What evaluation calls a data set: its name, of a file without folder and suffix."""
    return Path(source.name).name.partition(".")[0] if FILE_NAME.search(source.name) else source.name


# ---- one data set -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scanned:
    """A data set that has been read once, with every row checked and counted."""

    hook: HookRelay
    plan: Plan
    source: DatasetSource
    summary: Summary

    @classmethod
    def of(cls, hook: HookRelay, plan: Plan, source: DatasetSource, counts: DataCounts) -> Scanned:
        return cls(hook, plan, source, summarise(read_examples(hook, plan, source, counts)))

    def read(self, marks: bytearray | None = None, wanted: int = 0) -> Iterator[Example]:
        """The examples again, or those whose mark is ``wanted``."""
        again = read_examples(self.hook, self.plan, self.source, DataCounts())
        examples = verified(again, self.summary, self.source.location)
        if marks is None:
            return examples
        return compress(examples, (mark == wanted for mark in chain(marks, repeat(-1))))


def read_examples(hook: HookRelay, plan: Plan, source: DatasetSource, counts: DataCounts) -> Iterator[Example]:
    """The examples of one data set. ``counts`` grows as they are read.

    Raises:
        DataError: nobody can read the source or its columns, it has no rows, or, unless ``on_bad_row`` is ``skip``, a
            row is bad. What breaks a file as a whole (not one row) is an error whatever ``on_bad_row`` says.
        PluginError: a format failed in a way that it did not foresee.
    """
    skip = plan.of(DataOptions).on_bad_row == "skip"
    rows = Rows(hook, plan, source)
    is_empty, unseen = True, set(source.columns.values())
    _ = rows.reader  # what no format fits is an error, not a row to skip
    for row in rows.chosen():
        is_empty = False
        counts.rows += 1
        if unseen and isinstance(row, Row):
            unseen.difference_update(row.data)
        try:
            example = rows.convert(row)
        except DataError as error:
            drop_or_raise(error, skip, counts)
            continue
        counts.examples += 1
        yield example
    if is_empty:
        raise empty(source)
    if unseen and not plan.of(DataOptions).max_samples:
        raise DataError(
            f"no row of the data set {source.name!r} has the column {min(unseen)!r}",
            where=source.declared_at,
            why="columns names it",
            remedy="correct its name, or take it out of columns",
        )


def drop_or_raise(error: DataError, skip: bool, counts: DataCounts) -> None:
    """Count a bad row by the rule it broke, or raise the error with the hint that rows can be skipped."""
    if not skip:
        hint = "" if "on_bad_row" in error.remedy else SKIP_HINT
        remedy = "; ".join(filter(None, (error.remedy, hint))).removeprefix("or ")
        raise DataError(error.what, where=error.where, why=error.why, remedy=remedy) from None
    counts.drop(error.why or error.what)
    for hear in _LISTENERS:
        hear(error)


_LISTENERS: Final[list[Callable[[DataError], None]]] = []


@contextmanager
def hearing_of_bad_rows(hear: Callable[[DataError], None]) -> Iterator[None]:
    """Tell ``hear`` of every row that is left out meanwhile, in this process: counts know only how many there are."""
    _LISTENERS.append(hear)
    try:
        yield
    finally:
        _LISTENERS.remove(hear)
