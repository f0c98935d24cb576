"""What the loggers that keep rows share: where a resumed run went on from, and the rows before that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Run

ROWS_FILE: Final = "metrics.jsonl"


def resumed_step(run: Run) -> int | None:
    """The optimizer step that a resumed run began after; ``None`` for a run from the start.

    Read from the checkpoint's ``trainer_state.json``, else from a folder name like ``checkpoint-40``.
    """
    if run.resumed_from is None:
        return None
    checkpoint = Path(run.resumed_from)
    state = checkpoint / "trainer_state.json"
    if state.is_file():
        return int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
    number = re.search(r"-(\d+)$", checkpoint.name)
    return int(number[1]) if number else None


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


def numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The values of a row that are numbers, without its place (``step``, ``epoch``)."""
    for name, value in row.items():
        if name not in ("step", "epoch") and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
