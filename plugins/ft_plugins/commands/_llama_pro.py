"""A copy of a model with further blocks: each is the block below it, with nothing coming out of it yet.

A block adds the outputs of its attention and of its MLP to what passes through. A copy whose output projections are
zero adds nothing, so that logits stay as they were; the gradient of the projections is not zero, so that it learns.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError, DataError, EnvironmentProblem
from ft.options import ModelOptions
from ft_hookspecs import Plan
from ft_plugins.models._folders import INDEX, check_folder, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

OUTPUTS: Final = ("o_proj", "down_proj", "dense", "fc2")
"""What the last projections of attention and MLP are called in these models."""
MODELS: Final = ("gemma2", "gemma3_text", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3")
"""Types of model that were tried: in another a block may have further outputs."""
WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
NUMBERED: Final = re.compile(r"(?P<before>.*?\.layers\.)(?P<number>\d+)\.(?P<after>.+)")


def find_model(name: str) -> Path:
    """The folder of a model, by the sources of models in their order.

    Raises:
        FtError: it is not found, or is no whole model.
    """
    from ft_plugins.models import gguf, hub, local, pypi

    options = ModelOptions(model_name_or_path=name)
    plan = Plan(options.model_dump(), {}, (), (options,), None)
    for source in (pypi, gguf, local, hub):
        if (files := source.ft_resolve_model(plan, name)) is not None:
            check_folder(Path(files.path), name)
            return Path(files.path)
    raise ConfigError(f"there is no model {name!r}", remedy="give a folder, a .gguf file or a hub id")


def expand_model(folder: Path, out: Path, number: int) -> int:
    """Write the expanded model into ``out``, shard by shard; at most one shard and its copies are in memory.

    Returns:
        The number of layers that it has.

    Raises:
        ConfigError: ``out`` is in use, or the layers cannot be divided into so many groups.
        DataError: the model is of a type whose blocks are not known.
        EnvironmentProblem: ``out`` cannot be written.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    check(config, number, folder)
    try:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty", remedy="give a folder that is new or empty")
        out.mkdir(parents=True, exist_ok=True)
        _write_weights(folder, out, config.num_hidden_layers // number)
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in WEIGHTS and path.name not in (INDEX, "config.json"):
                shutil.copy2(path, out / path.name)
    except OSError as error:
        raise EnvironmentProblem(f"the model cannot be written: {error}", where=str(out)) from error
    _grow(config, number)
    config.save_pretrained(out)  # last: without it the folder is no model
    layers: int = config.num_hidden_layers
    return layers


def check(config: Any, number: int, folder: Path) -> None:
    """Refuse models whose blocks are not known, and numbers of blocks that do not divide the layers."""
    if config.model_type not in MODELS:
        raise DataError(
            f"blocks of a {config.model_type} model cannot be added",
            where=str(folder),
            why="whether a copied block changes nothing was tried for " + ", ".join(MODELS),
        )
    layers = config.num_hidden_layers
    if layers % number:
        divisors = [str(each) for each in range(1, layers + 1) if layers % each == 0]
        raise ConfigError(
            f"{layers} layers cannot be divided into {number} equal groups",
            where="--num-expand",
            remedy=f"it can be {', '.join(divisors)}",
        )


def _grow(config: Any, number: int) -> None:
    """A new block is of the type (of its attention) of the one that it copies."""
    group = config.num_hidden_layers // number
    if types := getattr(config, "layer_types", None):
        config.layer_types = [kind for old, kind in enumerate(types) for _ in range(2 if _is_last(old, group) else 1)]
    config.num_hidden_layers += number


def _write_weights(folder: Path, out: Path, group: int) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else None
    weight_map: dict[str, str] = {}
    size = 0
    for shard in sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]:
        with safe_open(folder / shard, framework="pt") as file:
            tensors = dict(_expanded({name: file.get_tensor(name) for name in file.keys()}, group))  # noqa: SIM118 - no mapping
        save_file(tensors, out / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if index:
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2)
        (out / INDEX).write_text(text, encoding="utf-8")


def _expanded(tensors: Mapping[str, Tensor], group: int) -> Iterator[tuple[str, Tensor]]:
    """Each tensor under its new name, and those of the last block of a group twice."""
    for name, tensor in tensors.items():
        if not (match := NUMBERED.fullmatch(name)):
            yield name, tensor
            continue
        before, old, after = match["before"], int(match["number"]), match["after"]
        new = old + old // group
        yield f"{before}{new}.{after}", tensor
        if _is_last(old, group):
            copy = tensor.new_zeros(tensor.shape) if after.split(".")[-2] in OUTPUTS else tensor.clone()
            yield f"{before}{new + 1}.{after}", copy


def _is_last(layer: int, group: int) -> bool:
    return (layer + 1) % group == 0
