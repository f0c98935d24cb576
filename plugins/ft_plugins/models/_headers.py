"""What a model's files say of it while planning, as far as they are on this machine. No weight is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.estimate import UnknownShapeError, read_shape
from ft.options import ModelOptions
from ft.quantization import quantised_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ft_hookspecs import ModelShape, Plan


def is_quantised(name: str, revision: str | None = None) -> bool:
    """Whether ``config.json`` of a folder, or of a hub id that was fetched before, says so."""
    return bool(name and files_config(name, revision))


def files_config(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """Its ``quantization_config``; empty when the weights are plain, or the files are not here."""
    return quantised_files(_folder(name, revision))


def shape_of(plan: Plan) -> ModelShape | None:
    """The weights of the model that trains, by name; ``None`` when they are not here.

    Also when they are not laid out as in a decoder of transformers: it gives some parts of other files other names.
    """
    options = plan.of(ModelOptions)
    try:
        shape = read_shape(_folder(options.model_name_or_path, options.model_revision))
    except UnknownShapeError:
        return None
    return shape if any(name.startswith("model.layers.0.self_attn.") for name in shape.tensors) else None


def inputs_of(plan: Plan) -> dict[str, int]:
    """The inputs of each linear map inside the layers, by name; none when they are not known, or packed."""
    options = plan.of(ModelOptions)
    packed = is_quantised(options.model_name_or_path, options.model_revision)
    shape = None if packed else shape_of(plan)
    return {name: inputs for name, (_, inputs) in shape.matrices.items()} if shape else {}


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
