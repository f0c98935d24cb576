"""A plan that names a model, a tiny GGUF file, and wheels that hold things they should or should not."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import pytest

from ft.options import ModelOptions
from ft.testing import tiny_model, tiny_tokenizer
from ft_hookspecs import Plan, Source

PlanOf = Callable[..., Plan]
WheelOf = Callable[..., Path]


@pytest.fixture
def plan_of(tmp_path: Path) -> PlanOf:
    def make(name: str, **options: object) -> Plan:
        model = ModelOptions.model_validate(
            {"model_name_or_path": name, "cache_dir": str(tmp_path / "cache"), **options}
        )
        sources = {key: Source("file", "run.yaml:1") for key in ("model_name_or_path", *options)}
        return Plan(model.model_dump(), sources, (), (model,), None)

    return make


@pytest.fixture
def wheel_of(tmp_path: Path) -> WheelOf:
    def make(members: Mapping[str, bytes], link: str = "") -> Path:
        path = tmp_path / "thing-1.0-py3-none-any.whl"
        with ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            if link:
                entry = ZipInfo(link)
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, "/etc/passwd")
        return path

    return make


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers with tied embeddings as a GGUF file, its matrices in 8 bits."""
    import gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    model = tiny_model("llama", tie_word_embeddings=True)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            value = weight.numpy()
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0) if value.ndim == 2 else value
            kind = gguf.GGMLQuantizationType.Q8_0 if value.ndim == 2 else None
            writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, size: int) -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(size))
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_chat_template(tokenizer.chat_template)
