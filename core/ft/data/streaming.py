"""Examples that are read while training: shuffled within blocks of rows, so that any place in them is found again.

A pass reads every row of the mixed data sets once. It is cut into blocks of ``buffer_size`` rows, and each block is
shuffled by itself, differently in each pass. What a block holds follows from its number alone, so that a stream goes on
where it stopped without a record of what it gave.
"""

from __future__ import annotations

import random
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ft.data.examples import Examples, summarise
from ft.data.mixing import mix
from ft.data.reading import drop_or_raise
from ft.data.rows import LoadedRow, Rows, empty
from ft.data.sources import dataset_sources
from ft.errors import DataError
from ft.options import DataOptions
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pluggy import HookRelay

    from ft.data.mixing import MixStrategy
    from ft_hookspecs import Example, Plan


Key = tuple[int, int]
"""The number of a data set, and of a row in it: the same each time that a mixture repeats the row."""


class Loaded(NamedTuple):
    """A row that is not yet an example, with the data set it belongs to."""

    rows: Rows
    row: LoadedRow
    key: Key


class StreamedExamples(Examples):
    """The training examples of a run, read as they are needed.

    Attributes:
        counts: grows with what is read.
        size: rows of a pass; ``None`` when ``max_steps`` says how long to train, as counting reads all rows.
        held_out: the examples of ``val_size``, which no pass gives.
    """

    def __init__(self, hook: HookRelay, plan: Plan, counts: DataCounts) -> None:
        super().__init__(self._in_order, None)
        self._plan, self.counts = plan, counts
        self._options, self._seed = plan.of(DataOptions), plan.get("seed", 42)
        self._sources = [Rows(hook, plan, source) for source in dataset_sources(plan)]

    @cached_property
    def size(self) -> int | None:
        """As above.

        Raises:
            DataError: a data set has no rows.
        """
        if (self._plan.get("max_steps") or 0) > 0:
            return None
        sizes = [rows.size() for rows in self._sources]
        if not all(sizes):
            raise empty(self._sources[sizes.index(0)].source)
        if len(sizes) == 1 or self._options.mix_strategy == "concat":
            return sum(sizes) - len(self.held_out)
        keys = [partial(_keys, number, size) for number, size in enumerate(sizes)]
        return sum(key not in self.held_out for key in mix(keys, *self._mixing))

    @cached_property
    def held_out(self) -> dict[Key, Example]:
        """Chosen from the first block, because the rest is not read before it is trained on.

        Raises:
            DataError: the block has no more examples than ``val_size``, so that nothing of it would be left.
        """
        number = int(self._options.val_size)
        if not number:
            return {}
        first = islice(self._rows(0), self._options.buffer_size)
        usable = {loaded.key: example for loaded in first for example in self._converted(loaded, DataCounts())}
        if number >= len(usable):
            raise DataError(
                f"val_size {number} leaves nothing to train on of the first {len(usable)} examples",
                why="of a stream, what is held out is chosen from the first buffer_size rows",
                remedy="lower val_size, raise buffer_size, or give eval_dataset",
            )
        chosen = random.Random(self._seed).sample(sorted(usable), number)  # noqa: S311 - reproducible, not secret
        return {key: usable[key] for key in sorted(chosen)}

    def blocks(self, number: int, first: int = 0) -> Iterator[tuple[int, list[Loaded]]]:
        """The blocks of one pass from the ``first`` on, shuffled unless ``disable_shuffling``."""
        size = self._options.buffer_size
        rows = self._rows(first * size)
        while block := list(islice(rows, size)):
            if not self._options.disable_shuffling:
                random.Random(f"{self._seed} {number} {first}").shuffle(block)  # noqa: S311 - reproducible, not secret
            yield first, [loaded for loaded in block if loaded.key not in self.held_out]
            first += 1

    def convert(self, block: Iterable[Loaded]) -> Iterator[Example]:
        """The examples of rows, counted.

        Raises:
            DataError: a row is bad, unless ``on_bad_row`` is ``skip``.
        """
        for loaded in block:
            yield from self._converted(loaded, self.counts)

    @property
    def _mixing(self) -> tuple[MixStrategy, Sequence[float] | None, int]:
        return self._options.mix_strategy, self._options.interleave_probs, self._seed

    def _rows(self, begin: int) -> Iterator[Loaded]:
        """The mixed rows of a pass from a place on; those of a single data set are passed over unparsed."""
        for rows in self._sources:
            if rows.reader is None:  # what no format fits is an error, not a row to skip
                raise empty(rows.source)
        if len(self._sources) == 1:
            yield from _loaded(0, self._sources[0], begin)
            return
        readers = [partial(_loaded, number, rows) for number, rows in enumerate(self._sources)]
        yield from islice(mix(readers, *self._mixing), begin, None)

    def _converted(self, loaded: Loaded, counts: DataCounts) -> Iterator[Example]:
        counts.rows += 1
        try:
            example = loaded.rows.convert(loaded.row)
        except DataError as error:
            drop_or_raise(error, self._options.on_bad_row == "skip", counts)
            return
        counts.examples += 1
        yield example

    def _in_order(self) -> Iterator[Example]:
        """One pass unshuffled, for whoever needs all examples."""
        return self.convert(loaded for loaded in self._rows(0) if loaded.key not in self.held_out)


def _loaded(number: int, rows: Rows, begin: int = 0) -> Iterator[Loaded]:
    return (Loaded(rows, row, (number, place)) for place, row in enumerate(rows.chosen(begin), begin))


def _keys(number: int, size: int) -> Iterator[Key]:
    return ((number, place) for place in range(size))


def streamed_splits(hook: HookRelay, plan: Plan) -> Iterator[tuple[str, Examples, DataCounts]]:
    """``train`` as a stream; what ``val_size`` holds out of it as ``eval``."""
    counts = DataCounts()
    train = StreamedExamples(hook, plan, counts)
    held_out = list(train.held_out.values())
    _ = train.size  # counted now: what is wrong with the data is told before weights are loaded
    yield "train", train, counts
    if held_out:
        size = len(held_out)
        yield "eval", Examples(held_out.__iter__, summarise(held_out)), DataCounts(rows=size, examples=size)
