"""Batches of examples as rows of tokens, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ft.errors import EnvironmentProblem
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ft.data.cache import Sample
    from ft_hookspecs import Example

AHEAD: Final = 2
"""Batches for each process on their way: enough to keep it busy, few enough to keep memory flat."""


def encoded(
    batches: Iterable[Sequence[Example]],
    encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]],
    counts: DataCounts,
    workers: int,
) -> Iterator[Sample]:
    """The rows of all batches, in order: the same ones whatever the number of workers.

    Args:
        batches: of examples, read as they are needed.
        encode: makes rows of a batch; where processes cannot be forked it must be picklable.
        counts: receives what ``encode`` counts.
        workers: processes; with one, this one.

    Raises:
        EnvironmentProblem: a worker was killed.
        FtError: what ``encode`` raises.
    """
    if workers == 1:
        for batch in batches:
            yield from encode(batch, counts)
        return
    try:
        for rows, made in _in_order(batches, encode, workers):
            counts.add(made)
            yield from rows
    except BrokenProcessPool as error:
        raise EnvironmentProblem(
            "a process that tokenises was ended from outside",
            why="usually the memory was not enough",
            remedy="lower preprocessing_num_workers or preprocessing_batch_size",
        ) from error


def _in_order(
    batches: Iterable[Sequence[Example]],
    encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]],
    workers: int,
) -> Iterator[tuple[list[Sample], DataCounts]]:
    fork = sys.platform == "linux"  # elsewhere system libraries do not survive it
    context = multiprocessing.get_context("fork" if fork else "spawn")
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(encode,)) as pool,
    ):
        ahead: deque[Future[tuple[list[Sample], DataCounts]]] = deque()
        for batch in batches:
            ahead.append(pool.submit(_encode, batch))
            if len(ahead) >= AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The tokenizer's own threads would share the same cores, and do not survive a fork."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


class _Worker:
    """What one process does all its life."""

    encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]]


def _begin(encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first of them ends the others
    _Worker.encode = staticmethod(encode)


def _encode(batch: Sequence[Example]) -> tuple[list[Sample], DataCounts]:
    counts = DataCounts()
    return list(_Worker.encode(batch, counts)), counts
