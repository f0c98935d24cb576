"""The rows of one data set: which of them are taken, and what makes examples of them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from typing import TYPE_CHECKING

from ft.errors import DataError, FtError, PluginError
from ft.options import DataOptions
from ft_hookspecs import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pluggy import HookRelay

    from ft_hookspecs import DatasetSource, Example, FormatReader, Plan

LoadedRow = Row | Exception
"""A row, or the error that says why it could not be read."""


@dataclass(frozen=True)
class Rows:
    """The rows of one data set, and what makes examples of them."""

    hook: HookRelay
    plan: Plan
    source: DatasetSource

    def load(self) -> Iterable[LoadedRow]:
        """All rows.

        Raises:
            DataError: no plugin can read the data set.
        """
        rows: Iterable[LoadedRow] | None = self.hook.ft_load_dataset(plan=self.plan, source=self.source)
        if rows is None:
            raise DataError(
                f"no plugin can read the data set {self.source.name!r}",
                where=self.source.location,
                remedy="`ft plugins list` shows what reads data sets",
            )
        return rows

    def chosen(self, begin: int = 0) -> Iterator[LoadedRow]:
        """``num_samples`` rows at random, then the first ``max_samples``; without the first ``begin`` of these."""
        limit = self.plan.of(DataOptions).max_samples
        if self.source.num_samples is not None:
            return islice(self._drawn(self.source.num_samples, limit), begin, None)
        rows = self.load()
        left = None if limit is None else max(0, limit - begin)
        after = getattr(rows, "after", None)
        return islice(after(begin) if after and begin else islice(rows, begin, None), left)

    def size(self) -> int:
        """How many rows :meth:`chosen` gives; the file is read, but not parsed where its kind allows it."""
        limit = self.plan.of(DataOptions).max_samples
        size = self.source.num_samples or self._count()
        return size if limit is None else min(size, limit)

    def _count(self) -> int:
        rows = self.load()
        count = getattr(rows, "row_count", None)
        return count() if count else sum(1 for _ in rows)

    def _drawn(self, size: int, limit: int | None) -> Iterator[LoadedRow]:
        """Each row once before any twice: a draw without replacement, then one with; each in the order of the file."""
        draw = random.Random(self.plan.get("seed", 42))  # noqa: S311 - a reproducible choice of rows, not a secret
        every = range(self._count())
        if not every:
            return
        once = draw.sample(every, min(size, len(every)))
        again = draw.choices(every, k=size - len(once))[: None if limit is None else max(0, limit - len(once))]
        if again and self.plan.of(DataOptions).val_size:
            raise DataError(
                f"num_samples {size} takes rows of {self.source.name!r} more than once, and val_size holds some out",
                where=self.source.declared_at,
                why=f"there are {len(every)} rows, and one that is measured must not be trained on too",
                remedy=f"set num_samples to at most {len(every)}, or give eval_dataset instead of val_size",
            )
        for numbers in (once[:limit], again):
            times = Counter(numbers)
            for number, row in enumerate(self.load() if times else ()):
                yield from repeat(row, times[number])

    def convert(self, row: LoadedRow) -> Example:
        """A row as an example.

        Raises:
            DataError: the row is bad.
            PluginError: the format failed in a way that it did not foresee.
        """
        if isinstance(row, Exception):
            raise row
        assert self.reader is not None
        try:
            return self.reader(row)
        except FtError:
            raise
        except Exception as error:
            function = getattr(self.reader, "func", self.reader)  # of a partial
            raise PluginError(
                f"the format reader of {getattr(function, '__module__', function)} failed on a row",
                where=row.where,
                why=f"{type(error).__name__}: {error}",
                remedy="report it to the plugin's author",
            ) from error

    @cached_property
    def reader(self) -> FormatReader | None:
        """Of the format that the columns of the first row tell, wherever reading begins; ``None`` without a good row.

        Raises:
            DataError: no format fits: that is no fault of one row.
        """
        first = next((row for row in self.load() if isinstance(row, Row)), None)
        return None if first is None else _format_of(self.hook, self.plan, self.source, first)


def empty(source: DatasetSource) -> DataError:
    """The error that a data set holds no row."""
    return DataError(f"the data set {source.name!r} has no rows", where=source.location, remedy="give another")


def _format_of(hook: HookRelay, plan: Plan, source: DatasetSource, row: Row) -> FormatReader:
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
