"""``metrics.jsonl`` in the output folder: one JSON object a log, complete on disk when the next step begins.

JSON has no NaN and no infinity: such a value is written as ``null``, and ``"not_finite": {"loss": "nan"}`` keeps what
it was. A resumed run removes the rows after the step it goes on from, so that no step is there twice.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from ft.files import ROWS, replacing
from ft_hookspecs import Run, StashKey, hookimpl
from ft_plugins.loggers._rows import rows_before

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TRIMMED: Final = StashKey[bool]("jsonl: rows after the resumed step are removed")


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    """Append the row. The file is opened anew for each: a row costs far less than the step before it."""
    path = run.output_dir / ROWS
    step = run.resumed_step
    if step is not None and TRIMMED not in run.stash:
        _trim(path, step)
        run.stash[TRIMMED] = True
    with path.open("a", encoding="utf-8") as file:
        file.write(encode(row) + "\n")


def encode(row: Mapping[str, Any]) -> str:
    values = {name: _plain(value) for name, value in row.items()}
    lost = {name: str(value) for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    if lost:
        values |= {**dict.fromkeys(lost), "not_finite": lost}
    return json.dumps(values, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: object) -> Any:
    """A tensor's or an array's single number as Python's; what JSON cannot hold as its text."""
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, (str, int, float, list, dict, type(None))) else str(value)


def _trim(path: Path, step: int) -> None:
    """Keep the rows up to ``step``, replacing the file as a whole: a run killed meanwhile loses nothing."""
    kept = "".join(f"{line}\n" for line, _ in rows_before(path, step))
    with replacing(path) as temporary:
        temporary.write_text(kept, encoding="utf-8")
