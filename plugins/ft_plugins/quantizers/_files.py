"""Whether a model's files are quantised already, as far as this machine knows; light, for planning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.quantization import quantised_files

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_quantised(name: str, revision: str | None = None) -> bool:
    """Whether ``config.json`` of a folder, or of a hub id that was fetched before, says so."""
    return bool(name and files_config(name, revision))


def files_config(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """Its ``quantization_config``; empty when the weights are plain, or the files are not here."""
    path = Path(name).expanduser()
    return quantised_files(path if path.is_dir() else _snapshot(name, revision or "main"))


def _snapshot(name: str, revision: str) -> Path:
    """Where the hub's cache holds a model (the layout is documented), without importing the hub's client."""
    repo, _, pinned = name.partition("@")
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    folder = Path(cache).expanduser() / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (pinned or revision)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else pinned or revision
    return folder / "snapshots" / commit
