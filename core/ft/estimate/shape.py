"""The sizes of a model from its files: ``config.json`` and the headers of the weights. No weight is read."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from ft.estimate.gguf import read_header
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


def read_shape(path: Path) -> ModelShape:
    """The sizes of a model in a folder of the Hugging Face layout, or in a GGUF file.

    Raises:
        UnknownShapeError: a file is missing or broken, or the architecture is not a plain decoder.
    """
    try:
        return _of_gguf(path) if path.suffix == ".gguf" else _of_folder(path)
    except (OSError, KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise UnknownShapeError(f"{path.name} does not say it: {error}") from error


def _of_folder(folder: Path) -> ModelShape:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    if experts := [name for name in SEVERAL_EXPERTS if (config.get(name) or 0) > 1]:
        raise UnknownShapeError(f"what a mixture of experts ({experts[0]}) keeps depends on the text")
    tensors: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= dict(_safetensors_shapes(file))
    if not tensors:
        raise UnknownShapeError("there are no safetensors")
    if config.get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight", None)
    return _from_config(config, tensors)


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


def _safetensors_shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes from the header: 8 bytes of its length, then JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return ((name, tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__")


def _of_gguf(file: Path) -> ModelShape:
    settings, shapes = read_header(file)
    architecture = settings["general.architecture"]
    if f"{architecture}.expert_count" in settings:
        raise UnknownShapeError("what a mixture of experts keeps depends on the text")

    def size(name: str, default: int | None = None) -> int:
        key = f"{architecture}.{name}"
        return int(settings[key] if default is None else settings.get(key, default))

    tensors = {_transformers_name(name): shape for name, shape in shapes.items()}
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
