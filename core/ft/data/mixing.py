"""Several data sets as one sequence, as ``datasets.interleave_datasets`` does it, but read as a stream.

- ``concat``: one after the other.
- ``interleave_under``: in turn, or drawn with ``interleave_probs``, until the first has no more.
- ``interleave_over``: until each has been through; one that ends sooner begins again.
- ``interleave_once``: until each has been through; one that ends sooner is passed over.

Drawing in turn ends only after a whole round, so that each data set has given equally often.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

MixStrategy = Literal["concat", "interleave_under", "interleave_over", "interleave_once"]

DRAWS_AT_ONCE: Final = 1000
"""As ``datasets`` draws, so that the order is the same for one seed."""


class Source(Generic[T]):
    """One data set that knows, an item ahead, whether all of it has been given."""

    def __init__(self, items: Callable[[], Iterable[T]]) -> None:
        self._items = items
        self.is_through = False
        self._begin()

    def _begin(self) -> None:
        self._iterator = iter(self._items())
        self._ahead = list(_first(self._iterator))
        self.is_through |= not self._ahead

    def take(self) -> Iterator[T]:
        """The next item, from the beginning again after the last; none if there is none at all."""
        if not self._ahead:
            self._begin()
        for item in self._ahead:
            self._ahead = list(_first(self._iterator))
            self.is_through |= not self._ahead
            yield item


def mix(
    sources: Sequence[Callable[[], Iterable[T]]],
    strategy: MixStrategy = "concat",
    probabilities: Sequence[float] | None = None,
    seed: int = 0,
) -> Iterator[T]:
    """The items of several sources, each read from its beginning by a call.

    Args:
        sources: none of them empty.
        strategy: see the module.
        probabilities: how often each is drawn, relative to each other; ``None``: in turn.
        seed: of the draws.
    """
    if strategy == "concat":
        yield from chain.from_iterable(source() for source in sources)
        return
    opened = [Source(source) for source in sources]
    done = any if strategy == "interleave_under" else all
    for number in draws(len(opened), probabilities, seed):
        if not (strategy == "interleave_once" and opened[number].is_through):
            yield from opened[number].take()
        ends_round = probabilities is not None or number == len(opened) - 1
        if ends_round and done(source.is_through for source in opened):
            return


def draws(size: int, probabilities: Sequence[float] | None, seed: int) -> Iterator[int]:
    """Numbers below ``size`` without end, in turn or at random."""
    if probabilities is None:
        while True:
            yield from range(size)
    import numpy as np

    generator = np.random.default_rng(seed)
    shares = np.asarray(probabilities, dtype=np.float64)
    while True:
        yield from map(int, generator.choice(size, size=DRAWS_AT_ONCE, p=shares / shares.sum()))


def mixed_size(
    sizes: Sequence[int], strategy: MixStrategy, probabilities: Sequence[float] | None = None, seed: int = 0
) -> int:
    """How many items :func:`mix` gives of sources with these sizes."""
    if strategy == "concat":
        return sum(sizes)
    ranges = [range(size).__iter__ for size in sizes]
    return sum(1 for _ in mix(ranges, strategy, probabilities, seed))


def _first(iterator: Iterator[T]) -> Iterator[T]:
    for item in iterator:
        yield item
        return
