"""The files that a run leaves and others look for, and how they are read and written."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_CONFIG: Final = "config.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
VALUE_HEAD: Final = "value_head.safetensors"
RECORD: Final = "run.json"
ROWS: Final = "metrics.jsonl"
PREDICTIONS: Final = "generated_predictions.jsonl"


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file, or no object in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which then takes its place as a whole: nobody sees half of it."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")  # two runs may write the same
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
