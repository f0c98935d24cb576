"""Sizes from headers alone, and what is said when they cannot be known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from ft.estimate import UnknownShapeError, describe, estimate_memory, estimate_or_note, read_shape, room, warning
from ft.estimate.devices import DeviceMemory
from ft.planning import make_plan
from ft.testing import save_tiny_model, tiny_model


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "phi", "phi3", "gemma3"])
def test_a_folder(tmp_path, arch):
    save_tiny_model(tmp_path / "m", arch)
    found, model = read_shape(tmp_path / "m"), tiny_model(arch)
    assert found.parameters == count(model)
    keys = model.config.num_key_value_heads
    assert (found.layers, found.hidden, found.heads, found.key_heads, found.vocabulary) == (2, 64, 4, keys, 384)


def test_a_gguf_file(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "b", "c"])
    shapes = {"token_embd": (96, 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.ffn_down": (32, 64)}
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_shape(tmp_path / "m.gguf")
    assert (found.layers, found.hidden, found.heads, found.key_heads, found.head_size) == (1, 32, 4, 2, 8)
    assert (found.vocabulary, found.tied) == (96, True)
    assert found.matrices["model.layers.0.mlp.down_proj"] == (32, 64)
    assert found.parameters == 96 * 32 + 32 * 32 + 16 * 32 + 32 * 64


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "config.json"),
        ("{", "config.json|does not give"),
        ({"hidden_size": 8}, "does not give"),
        ({"num_local_experts": 8}, "mixture-of-experts models are not estimated"),
    ],
)
def test_what_cannot_be_known_is_said(tmp_path, config, said):
    folder = save_tiny_model(tmp_path / "m")
    (folder / "config.json").unlink()
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UnknownShapeError, match=said):
        read_shape(folder)


def test_a_file_that_is_cut_short(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0\xff")
    with pytest.raises(UnknownShapeError):
        read_shape(tmp_path / "m.gguf")


# ---- compositions


@pytest.fixture
def planned(tmp_path, tiny_model_dir):
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")

    def make(*words: str, model=tiny_model_dir):
        base = (f"model_name_or_path={model}", f"dataset={data}", f"output_dir={tmp_path / 'out'}", "use_cpu=true")
        return make_plan(None, (*base, *words))

    return make


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("finetuning_type=full",), "trained", count(tiny_model())),
        (("finetuning_type=full", "pure_bf16=true"), "state_bytes", 4),
        (("finetuning_type=full", "bf16=true"), "compute_bytes", 2),
        (("lora_rank=4",), "added", 4 * 2 * (2 * 128 + 2 * 96 + 3 * 192)),
        (("lora_rank=4", "lora_target=q_proj"), "added", 4 * 2 * 128),
        (("optim=sgd",), "state_bytes", 0),
        (("dtype=float32",), "weight_bytes", 4),
        (("per_device_train_batch_size=3", "cutoff_len=100"), "tokens", 300),
        (("gradient_accumulation_steps=2",), "accumulates", True),
        (("attention=padded",), "packed", False),
        (("torch_compile=true", "torch_compile_backend=aot_eager"), "packed", True),
        (("packing=true",), "measured", True),
        (("optim=ademamix_8bit",), "state_bytes", 3),
        (("gradient_checkpointing=full",), "checkpointing", "full"),
    ],
)
def test_each_key_acts(planned, words, field, value):
    assert getattr(estimate_memory(*planned(*words)), field) == value


def test_lengths_of_the_data_say_how_long_a_batch_can_be(planned):
    plan, plugins = planned("per_device_train_batch_size=2", "cutoff_len=512")
    found = estimate_memory(plan, plugins, lengths=[5, 90, 40, 70])
    assert (found.tokens, found.longest, found.measured) == (160, 90, True)
    padded = estimate_memory(*planned("per_device_train_batch_size=2", "attention=padded"), lengths=[5, 90, 40, 70])
    assert padded.tokens == 180


def test_a_model_that_is_not_here_is_not_guessed(planned):
    said = estimate_or_note(*planned(model="nobody/has-this-model"))
    assert said == "memory is not estimated: nobody/has-this-model is not on this machine yet"


def test_too_much_is_said_with_three_remedies(planned):
    plan, plugins = planned("per_device_train_batch_size=64", "cutoff_len=4096", "gradient_checkpointing=none")
    found = estimate_memory(plan, plugins)
    small = DeviceMemory(10**8, "a small device", False)
    said = warning(found, small)
    assert "a small device has 0.10 GB" in said
    assert said.count(" GB)") == 3
    assert said.startswith("memory: ")
    assert "if each sample were as long as cutoff_len, 4,096 tokens" in said
    assert "gradient_checkpointing: full" in said
    assert warning(found, DeviceMemory(10**15, "a large one", False)) is None
    described = describe(found, small)
    assert described["warning"] == said
    json.dumps(described)


def test_where_no_remedy_is_enough_it_is_said(planned):
    found = estimate_memory(*planned("per_device_train_batch_size=64", "gradient_checkpointing=none"))
    assert warning(found, DeviceMemory(10**8, "a device", False)).endswith(" GB)")
    said = warning(found, DeviceMemory(10**6, "a watch", False))
    assert said.endswith("several of them, a smaller model, or a device with more memory")


def test_what_an_unknown_optimizer_keeps_is_not_guessed(planned, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "optimizers.md").read_text(encoding="utf-8")
    (tmp_path / "signed.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    found = estimate_memory(*planned(f"plugins={tmp_path / 'signed.py'}"))
    assert found.state_bytes is None
    assert "what the optimizer keeps is not known: its memory is not counted" in found.notes


def test_the_room_is_this_machines_memory(planned):
    found = room(planned()[0])
    assert 10**8 < found.bytes < 10**14
    assert not found.is_gpu
