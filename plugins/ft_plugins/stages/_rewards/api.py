"""A reward model behind a URL: texts are posted, scores come back."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final
from urllib import error, parse, request

from ft.errors import TrainingError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH: Final = 64
"""Texts in one request."""

LARGEST: Final = 2**24
"""Bytes of an answer that are read."""

PIECE: Final = 2**16

SHOWN: Final = 200
"""Characters of a wrong answer that an error shows."""

BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


class _NoRedirect(request.HTTPRedirectHandler):
    """Texts and token go to the host that was named and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class RewardServer:
    """Posts ``{"model": "model", "messages": [texts]}`` and reads ``{"scores": [numbers]}``: LLaMA-Factory's contract.

    Attributes:
        url: http or https.
        token: sent as ``Authorization: Bearer``; in no message.
        timeout: seconds of one request.
        attempts: at a request that fails for a reason that may pass.
        pause: seconds after the first attempt; each further pause is twice as long.
    """

    url: str
    token: str | None = None
    timeout: float = 60.0
    attempts: int = 5
    pause: float = 1.0

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One score for each text.

        Raises:
            TrainingError: the server cannot be reached, or answers anything else; names the URL and the answer.
        """
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        return [score for part in parts for score in self._scores(part)]

    def _scores(self, texts: Sequence[str]) -> list[float]:
        body = self._post(json.dumps({"model": "model", "messages": list(texts)}).encode())
        try:
            scores = json.loads(body)["scores"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._wrong(f"no scores in its answer: {_shown(body)}") from None
        if not isinstance(scores, list) or len(scores) != len(texts):
            number = len(scores) if isinstance(scores, list) else "no list of"
            raise self._wrong(f"{number} scores for {len(texts)} texts: {_shown(body)}")
        if wrong := [score for score in scores if not _is_finite(score)]:
            raise self._wrong(f"a score that is not a finite number: {str(wrong[0])[:SHOWN]}")
        return [float(score) for score in scores]

    def _post(self, data: bytes) -> bytes:
        """The body of the answer, after as many attempts as it takes or are allowed."""
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(data)
            except error.HTTPError as refused:
                reason = f"status {refused.code}: {_body(refused)}"
                if refused.code not in BUSY:
                    raise self._wrong(reason) from None
            except (OSError, HTTPException) as failed:  # refused, reset, timed out, not HTTP at all
                reason = first_line(failed)
            if attempt < self.attempts:
                time.sleep(self.pause * 2 ** (attempt - 1))
        raise self._wrong(f"{reason} ({self.attempts} attempts)")

    def _once(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        opener = request.build_opener(_NoRedirect)
        ends = time.monotonic() + self.timeout
        with opener.open(request.Request(self.url, data, headers), timeout=self.timeout) as answer:  # noqa: S310 - scheme checked while planning
            return _read(answer, ends)

    def _wrong(self, why: str) -> TrainingError:
        return TrainingError(
            "the reward model's server gives no rewards",
            where=shown_url(self.url),
            why=self._without_token(why),
            remedy='it must answer {"scores": [one number for each text]}; then set resume_from_checkpoint: true',
        )

    def _without_token(self, text: str) -> str:
        """A server may send back what it was sent."""
        return text.replace(self.token, "***") if self.token else text


def shown_url(url: str) -> str:
    """A URL without its query and its user, which may hold secrets; no more than its scheme if it is none."""
    try:
        parts = parse.urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}:…"
    return parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_finite(score: object) -> bool:
    try:
        return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _read(answer: Any, ends: float) -> bytes:
    """The body of an answer, which must have come by then: a timeout of the connection begins anew with each byte."""
    body = b""
    while len(body) < LARGEST and (piece := answer.read1(PIECE)):
        body += piece
        if time.monotonic() > ends:
            raise TimeoutError("timed out in the middle of its answer")
    return body


def _body(refused: error.HTTPError) -> str:
    """What a server says besides its status, if it comes to the end of it."""
    try:
        return _shown(refused.read(LARGEST))
    except (OSError, HTTPException) as failed:
        return first_line(failed)


def _shown(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return (f"{text[:SHOWN]} …" if len(text) > SHOWN else text) or "nothing"
