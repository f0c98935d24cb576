"""What a folder must hold to be a model, and what to say when it does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError, DataError, nearest
from ft.files import ADAPTER_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

INDEX: Final = "model.safetensors.index.json"
PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: it is not JSON, or not an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file.name} cannot be read", where=str(file), why=str(error)) from error
    if not isinstance(content, dict):
        raise DataError(f"{file.name} does not hold a JSON object", where=str(file))
    return content


def check_folder(folder: Path, where: str = "") -> None:
    """Check that ``folder`` is a whole model that can be loaded without running code from elsewhere.

    Raises:
        DataError: a file is missing or malformed, or there are only pickled weights.
        ConfigError: it is an adapter, not a model.
    """
    where = where or str(folder)
    if not (folder / "config.json").is_file():
        raise _no_config(folder, where)
    check_weights(folder, where)
    code = read_json(folder / "config.json").get("auto_map") or {}
    if foreign := [value for value in code.values() if "--" in str(value)]:
        raise DataError(
            f"config.json takes its code from another repository: {foreign[0]}",
            where=where,
            why="code from a second repository cannot be pinned",
            remedy="copy that code into the model's folder, review it, and name the file in auto_map",
        )


def check_weights(folder: Path, where: str) -> None:
    """Check that the weights are there, all of them, as safetensors.

    Raises:
        DataError: naming what is missing.
    """
    if (folder / INDEX).is_file():
        shards = set((read_json(folder / INDEX).get("weight_map") or {}).values())
    else:
        shards = {"model.safetensors"}
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if not missing:
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise pickled_weights(where, pickled[0])
    raise DataError(f"weights are missing: {', '.join(missing)}", where=where, remedy="fetch the model again")


def pickled_weights(where: str, file: str) -> DataError:
    """The error for weights that only unpickling could read."""
    return DataError(
        f"the weights are pickled ({file})",
        where=where,
        why="loading a pickle can run any code; ft reads safetensors only",
        remedy="where you trust the file, load it with transformers and call model.save_pretrained(folder)",
    )


def _no_config(folder: Path, where: str) -> DataError | ConfigError:
    if (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "its base model"
        return ConfigError(
            "this folder holds an adapter, not a model",
            where=where,
            remedy=f"model_name_or_path: {base} and adapter_name_or_path: {where}",
        )
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
    return DataError(
        "the folder holds no model: config.json is missing",
        where=where,
        why=f"it holds {held or 'nothing'}",
        remedy="give the folder that holds config.json, model.safetensors and the tokenizer's files, or a .gguf file",
    )


def nearest_siblings(path: Path, limit: int = 3) -> list[str]:
    """Paths beside one that does not exist, most alike first; a misspelt folder on the way is looked at too."""
    existing = next(parent for parent in path.parents if parent.is_dir())
    wanted = path.relative_to(existing).parts[0]
    names = [entry.name for entry in existing.iterdir() if not entry.name.startswith(".")]
    return [str(existing / name) for name in nearest(wanted, names, limit)]
