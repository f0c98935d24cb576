"""Tokens and the time spent training on them, counted on the host."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Throughput:
    """Real tokens since the last :meth:`take`, and the seconds since then that were not spent paused."""

    def __init__(self) -> None:
        self._tokens = 0
        self._since: float | None = None  # the clock starts with the first batch, not with the object

    def add(self, tokens: int) -> None:
        """Count the tokens of a micro-batch, before it is computed."""
        if self._since is None:
            self._since = perf_counter()
        self._tokens += tokens

    def take(self) -> tuple[int, float]:
        """Tokens and seconds since the last call."""
        now = perf_counter()
        taken = self._tokens, max(now - (self._since if self._since is not None else now), 1e-9)
        self._tokens, self._since = 0, now
        return taken

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block: an evaluation or a save."""
        begin = perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += perf_counter() - begin
