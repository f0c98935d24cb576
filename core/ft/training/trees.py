"""Nested states (optimizers, schedulers, random generators) as safetensors and JSON: nothing is executed on loading."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ft.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path


def save_tree(tree: Any, path: Path) -> None:
    """Write ``<path>.safetensors`` with the tensors and ``<path>.json`` with all else.

    Dictionaries keep the types of their keys and tuples stay tuples. Numbers are exact.

    Raises:
        TrainingError: something in the tree has no such form.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_encode(tree, tensors))
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def load_tree(path: Path) -> Any:
    """What :func:`save_tree` wrote, tensors on the CPU."""
    tensors = load_file(path.with_suffix(".safetensors"))
    return _decode(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), tensors)


def _encode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match tree:
        case None | bool() | int() | float() | str():
            return tree
        case torch.Tensor():
            name = str(len(tensors))
            tensors[name] = tree.detach().cpu().contiguous().clone()  # two names of one storage cannot be written
            return {"tensor": name}
        case np.ndarray():
            return {"array": tree.tolist(), "dtype": str(tree.dtype)}
        case np.generic():
            return tree.item()
        case dict():
            return {"dict": [[_encode(key, tensors), _encode(value, tensors)] for key, value in tree.items()]}
        case tuple():
            return {"tuple": [_encode(value, tensors) for value in tree]}
        case list():
            return [_encode(value, tensors) for value in tree]
    raise TrainingError(
        f"a {type(tree).__name__} in the optimizer's or scheduler's state cannot be saved",
        why="checkpoints hold tensors, numbers and text only",
        remedy="set save_only_model: true, or use another optimizer",
    )


def _decode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match tree:
        case {"tensor": name}:
            return tensors[name]
        case {"array": values, "dtype": dtype}:
            return np.array(values, dtype=dtype)
        case {"dict": pairs}:
            return {_decode(key, tensors): _decode(value, tensors) for key, value in pairs}
        case {"tuple": values}:
            return tuple(_decode(value, tensors) for value in values)
        case list():
            return [_decode(value, tensors) for value in tree]
    return tree
