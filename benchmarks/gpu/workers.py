"""Processes that carry out one check each.

Importing takes as long as many a check, so the next processes import while this one computes: they touch no device
before they are told which check is theirs.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from check import Check, Place

IMPORTING = 180.0
"""Seconds that a process may take to be ready; on a fresh machine the first reads gigabytes of libraries."""


class Worker:
    """A process with the libraries imported, that waits for a check. Its output is kept for when it dies."""

    def __init__(self, words: Sequence[str]) -> None:
        self._ready = False
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )

    def carry_out(self, name: str, seconds: float, end: float | None) -> dict[str, Any]:
        """What the check gave.

        Args:
            name: ``topic:name``.
            seconds: that it may take from the moment that the process is ready.
            end: when all must be over, by the monotonic clock; ``None``: it may take as long as it likes.
        """
        if not self._ready:
            heard = self._heard(IMPORTING if end is None else min(IMPORTING, end - time.monotonic()))
            self._ready = heard.pop("ready", False)
            if not self._ready:
                return heard
        limit = None if end is None else min(seconds, end - time.monotonic())
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died since: what is heard says so
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
        return self._heard(limit)

    def _heard(self, limit: float | None) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], None if limit is None else max(0, limit))[0]:
            return {"status": "TIMEOUT", "why": f"more than {limit:.0f} s"}
        if line := self._process.stdout.readline():
            heard: dict[str, Any] = json.loads(line)
            return heard
        return {"status": "FAILED", "why": f"{self._last_words()}\nexit code {self._process.wait()}".strip()}

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:].strip()

    def end(self) -> None:
        """Kill it with all that it started, so that the device is free."""
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            stream.close()


class Workers:
    """One process a check, and some more that import meanwhile.

    Args:
        words: the command of a worker.
        ready: how many wait.
        reuse: a process goes on to the next check; one that failed does not.
    """

    def __init__(self, words: Sequence[str], ready: int, reuse: bool = False) -> None:
        self._words, self._reuse = words, reuse
        self._spare = deque(Worker(words) for _ in range(ready))

    def carry_out(self, name: str, seconds: float, end: float | None) -> dict[str, Any]:
        """Carry out a check in the process that waited longest, as :meth:`Worker.carry_out` does."""
        if not (self._reuse and self._spare):
            self._spare.append(Worker(self._words))
        worker = self._spare.popleft()
        outcome = worker.carry_out(name, seconds, end)
        if self._reuse and outcome["status"] == "ok":
            self._spare.append(worker)
        else:
            worker.end()
        return outcome

    def close(self) -> None:
        """End those that wait."""
        while self._spare:
            self._spare.popleft().end()


def serve(find: Callable[[str], Check], prepare: Callable[[], object], place: Place) -> None:
    """What a worker does. Only answers go to its standard output; what libraries print goes into the log.

    Args:
        find: gives a check by its name.
        prepare: imports what checks need; no device is touched.
        place: where it computes.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        prepare()
        _say(answers, {"ready": True})
        for line in sys.stdin:
            _say(answers, outcome_of(find(line.strip()), place))


def _say(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def outcome_of(check: Check, place: Place) -> dict[str, Any]:
    """What a check gives, in its own process."""
    try:
        return {"status": "ok", "figures": dict(check.run(place))}
    except AssertionError as error:
        return {"status": "WRONG", "why": str(error)[-2000:], "traceback": traceback.format_exc()}
    except Exception as error:
        return {"status": "FAILED", "why": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
