"""The nearest of several names, for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant, or ``None`` when none is like it."""
    from rapidfuzz import process

    match = process.extractOne(name, list(names), score_cutoff=60)
    return match[0] if match else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``did you mean 'x'?``, or nothing."""
    match = nearest(name, names)
    return f"did you mean {match!r}?" if match else ""
