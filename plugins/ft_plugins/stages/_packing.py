"""Rows of several samples each: greedy best fit, longest samples first, over the whole data set or a block of a stream.

A row is a feature with ``samples``; the samples of a row stay runs of their own, so none sees another. Which samples
share a row depends on their lengths alone: it is the same in each epoch and process, and the sampler shuffles rows.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ft.options import DataOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset

    from ft_hookspecs import DataCounts, Run

    Sample = Mapping[str, Any]

SAMPLES: Final = "samples"


class PackedRows:
    """A data set of rows over a data set of samples; nothing is copied.

    Args:
        samples: with a column ``length``, in tokens.
        capacity: tokens of a row; a longer sample has a row of its own.
    """

    def __init__(self, samples: Dataset, capacity: int) -> None:
        self.samples = samples
        self.rows = best_fit(list(samples["length"]), capacity)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[dict[str, Any]]]:
        return {SAMPLES: [self.samples[sample] for sample in self.rows[index]]}


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the samples of each row, rows and samples in the order of the data.

    Samples are placed from the longest to the shortest, each into the row that it fills best, else into a new one. A
    row with room for r tokens is found by the bit r of a number, so that a million samples take seconds.
    """
    capacity = max(capacity, *lengths, 0)
    with_room: list[list[list[int]]] = [[] for _ in range(capacity + 1)]
    with_room_bits, rows = 0, []
    for sample in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        fitting = with_room_bits >> lengths[sample]
        if fitting:
            room = lengths[sample] + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            with_room_bits ^= 0 if with_room[room] else 1 << room
        else:
            room, row = capacity, []
            rows.append(row)
        row.append(sample)
        room -= lengths[sample]
        with_room[room].append(row)
        with_room_bits |= 1 << room
    return sorted(map(sorted, rows))


def pack_rows(run: Run, dataset: Dataset) -> PackedRows:
    """Rows of ``cutoff_len`` tokens of the training data; what that means for a step is told."""
    packed = PackedRows(dataset, capacity := run.plan.of(DataOptions).cutoff_len)
    samples, rows = len(packed.samples), len(packed)
    full = sum(packed.samples["length"]) / (rows * capacity)
    run.decide(
        f"packing: {samples:,} samples fill {rows:,} rows of {capacity:,} tokens to {full:.0%}; "
        f"per_device_train_batch_size counts rows, about {samples / rows:.1f} samples each"
    )
    return packed


def pack_block(samples: Iterable[Sample], _: DataCounts, *, capacity: int) -> Iterator[Sample]:
    """Rows of a block of a stream."""
    block = list(samples)
    rows = best_fit([sample["length"] for sample in block], capacity)
    return ({SAMPLES: [block[sample] for sample in row]} for row in rows)


def unpacked(features: Sequence[Sample]) -> list[Sample]:
    """The samples of rows; a feature that is no row is a sample."""
    return list(chain.from_iterable(feature.get(SAMPLES, (feature,)) for feature in features))
