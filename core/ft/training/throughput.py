"""Tokens and the time spent training on them, counted on the host so that no device is waited for."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Throughput:
    """Real tokens and the seconds in which they were trained on, pauses left out.

    Attributes:
        pending: tokens of this process that are in no total yet.
        counted: tokens of all processes since the last :meth:`rate`.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.counted = 0
        self._since: float | None = None  # the clock starts with the first batch, not with the object

    def add(self, tokens: int) -> None:
        """Count the tokens of a micro-batch, before it is computed."""
        if self._since is None:
            self._since = perf_counter()
        self.pending += tokens

    def rate(self) -> float:
        """Tokens a second since the last call."""
        now = perf_counter()
        seconds = now - self._since if self._since is not None else 0.0
        rate = self.counted / seconds if seconds > 0 else 0.0
        self.counted, self._since = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block: an evaluation or a save."""
        begin = perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += perf_counter() - begin
