"""The sizes of a model from its files: ``config.json`` and the headers of the weights. No weight is read."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ft.estimate.gguf import read_header
from ft.estimate.packed import Stored, unpacked
from ft.quantization import quantised_files
from ft_hookspecs import ModelShape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NAMES: Final = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
"""What architectures call the same size."""

UNREADABLE: Final = (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error)
"""What a missing or broken file ends in."""
SEVERAL_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
GGUF_NAMES: Final = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm",
}  # fmt: skip
"""llama.cpp's names of a decoder's parts, and transformers'."""


class UnknownShapeError(ValueError):
    """The files do not say how large the model is; the text says why."""


class Weights(NamedTuple):
    """What headers say: ``config.json`` (of a GGUF file its settings), and the shape of each weight by name.

    Where the files are quantised, shapes are unpacked, and ``sizes`` has the bytes of each weight.
    """

    config: Mapping[str, Any]
    shapes: dict[str, tuple[int, ...]]
    sizes: Mapping[str, int]


def read_shape(path: Path) -> ModelShape:
    """The sizes of a model in a folder of the Hugging Face layout, or in a GGUF file.

    Raises:
        UnknownShapeError: a file is missing or broken, or the architecture is not a plain decoder.
    """
    try:
        return _of_gguf(path) if path.suffix == ".gguf" else _of_folder(path)
    except UNREADABLE as error:
        raise UnknownShapeError(f"{path.name} does not give the model's sizes: {error}") from error


def read_weights(path: Path) -> Weights:
    """What the headers of a model's files say, however it is laid out.

    Raises:
        UnknownShapeError: a file is missing or broken, or quantised in a way that is not known.
    """
    try:
        return _gguf_weights(path) if path.suffix == ".gguf" else _folder_weights(path)
    except UNREADABLE as error:
        raise UnknownShapeError(f"{path.name} does not give the model's sizes: {error}") from error


def experts_of(config: Mapping[str, Any]) -> str:
    """The key that makes a model a mixture of experts; empty for any other model."""
    return next((name for name in SEVERAL_EXPERTS if (config.get(name) or 0) > 1), "")


def _folder_weights(folder: Path) -> Weights:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors: dict[str, Stored] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= dict(_stored(file))
    if not tensors:
        raise UnknownShapeError("the folder has no safetensors files")
    quantised = quantised_files(folder)
    tensors = unpacked(tensors, quantised) if quantised else tensors
    sizes = {name: tensor.size for name, tensor in tensors.items()} if quantised else {}
    return Weights(config.get("text_config") or config, {name: each.shape for name, each in tensors.items()}, sizes)


def _of_folder(folder: Path) -> ModelShape:
    config, tensors, sizes = _folder_weights(folder)
    if experts := experts_of(config):
        raise UnknownShapeError(f"mixture-of-experts models are not estimated ({experts})")
    if config.get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight", None)
    shape = _from_config(config, tensors)
    stored = sum(sizes[f"{name}.weight"] for name in shape.matrices) if sizes else 0
    return replace(shape, matrix_bytes=stored / sum(map(prod, shape.matrices.values()))) if stored else shape


def _from_config(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> ModelShape:
    sizes = {size: _size(config, names) for size, names in NAMES.items()}
    head_size = config.get("head_dim") or sizes["hidden"] // sizes["heads"]
    return ModelShape(
        **sizes, key_heads=config.get("num_key_value_heads") or sizes["heads"], head_size=head_size, tensors=tensors
    )


def _size(config: Mapping[str, Any], names: Sequence[str]) -> int:
    found = next((int(config[name]) for name in names if config.get(name)), 0)
    if not found:
        raise KeyError(f"config.json has no {names[0]}")
    return found


def _stored(file: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of a file from its header: 8 bytes of its length, then JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, Stored(tuple(entry["shape"]), end - begin, file, 8 + length + begin)


def _gguf_weights(file: Path) -> Weights:
    settings, shapes = read_header(file)
    return Weights(settings, {_transformers_name(name): shape for name, shape in shapes.items()}, {})


def _of_gguf(file: Path) -> ModelShape:
    settings, tensors, _ = _gguf_weights(file)
    architecture = settings["general.architecture"]
    if f"{architecture}.expert_count" in settings:
        raise UnknownShapeError("mixture-of-experts models are not estimated")

    def size(name: str, default: int | None = None) -> int:
        key = f"{architecture}.{name}"
        return int(settings[key] if default is None else settings.get(key, default))

    heads, hidden = size("attention.head_count"), size("embedding_length")
    return ModelShape(
        layers=size("block_count"),
        hidden=hidden,
        intermediate=size("feed_forward_length"),
        heads=heads,
        key_heads=size("attention.head_count_kv", heads),
        head_size=size("attention.key_length", hidden // heads),
        vocabulary=tensors["model.embed_tokens.weight"][0],
        tensors=tensors,
    )


def _transformers_name(name: str) -> str:
    """``blk.0.attn_q.weight`` → ``model.layers.0.self_attn.q_proj.weight``."""
    *layer, part, kind = name.split(".")
    prefix = f"model.layers.{layer[1]}." if layer else ""
    return f"{prefix}{GGUF_NAMES.get(part, part)}.{kind}"
