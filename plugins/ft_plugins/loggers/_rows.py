"""What the loggers that keep rows share: the rows before a resumed run, and the numbers of a row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def rows_before(path: Path, step: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line and its row, up to a step; without a ``final`` row, and without a line that a killed run left torn."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.get("event") != "final" and row.get("step", 0) <= step:
            yield line, row


def points(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row as trackers call them: ``train/loss``, ``eval/loss``, ``final/…``."""
    event = row["event"]
    return {f"{event}/{name.removeprefix(f'{event}_')}": value for name, value in numbers(row)}


def numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The values of a row that are numbers, without its place (``step``, ``epoch``)."""
    for name, value in row.items():
        if name not in ("step", "epoch") and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
