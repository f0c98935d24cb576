"""The modules that headers tell are those of transformers' model, whatever its architecture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ft.errors import FtError
from ft.estimate import read_weights
from ft.planning import make_plan
from ft.testing import tiny_tokenizer
from ft_plugins.models._layout import layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

COMMON = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
OLD = {"vocab_size": 384, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
EXPERTS = {**COMMON, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}
LATENT = {
    "n_routed_experts": 4, "moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "phi3": COMMON,
    "gemma2": {**COMMON, "head_dim": 8},
    "gpt2": OLD,
    "gptj": {**OLD, "rotary_dim": 4},
    "opt": {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 384, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mixtral": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS,
    "deepseek_v3": {**COMMON, **LATENT},
    "gpt_oss": EXPERTS,
}
RENAMED = {"gpt_neox": COMMON, "granitemoe": EXPERTS}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], tuple[Path, PreTrainedModel]]:
    def save(model_type: str) -> tuple[Path, PreTrainedModel]:
        config = AutoConfig.for_model(model_type, **{**MODELS, **RENAMED}[model_type])
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path / model_type)
        tiny_tokenizer().save_pretrained(tmp_path / model_type)
        return tmp_path / model_type, model

    return save


def owners(model: PreTrainedModel) -> set[str]:
    """Every module that holds a parameter, itself or in a module inside."""
    parts = [name.split(".")[:-1] for name, _ in model.named_parameters()]
    return {".".join(part[: end + 1]) for part in parts for end in range(len(part))}


@pytest.mark.parametrize("model_type", MODELS)
def test_names_are_those_of_the_model(saved: Callable[..., Any], model_type: str) -> None:
    folder, model = saved(model_type)
    weights = read_weights(folder)
    found = layout(weights.config, weights.shapes)
    assert found
    assert owners(model) <= set(found.modules) <= {name for name, _ in model.named_modules()}
    holder, count = found.layers
    assert (count, len(model.get_submodule(holder))) == (2, 2)
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert found.tied == (ends[0] is ends[1])
    assert found.linear
    for name, size in found.linear.items():
        layer = model.get_submodule(name)
        inputs_first = model_type == "gpt2"
        assert size == (tuple(layer.weight.shape)[::-1] if inputs_first else (layer.out_features, layer.in_features))


@pytest.mark.parametrize("model_type", RENAMED)
def test_what_transformers_renames_in_ways_not_known_here_is_not_judged(
    saved: Callable[..., Any], model_type: str
) -> None:
    weights = read_weights(saved(model_type)[0])
    assert layout(weights.config, weights.shapes) is None


# ---- plans --------------------------------------------------------------------------------------------------------


def refusal(model: Path, words: str) -> str:
    """What planning says; empty where it plans."""
    base = [f"model_name_or_path={model}", "dataset=x.json", "output_dir=out", "use_cpu=true"]
    try:
        make_plan(None, [*base, *words.split()])
    except FtError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lora_target=q_proj", "modules are named c_attn, c_fc, c_proj"),
        ("additional_target=ln_g", "did you mean ln_"),
        ("finetuning_type=freeze freeze_trainable_modules=mpl", "did you mean mlp?"),
        ("finetuning_type=freeze freeze_trainable_layers=3", "the model has 2 layers"),
        ("pissa_init=true lora_rank=33 lora_target=c_fc", "has rank 32 at most"),
        ("finetuning_type=oft add_tokens=<a>", "share their weights with the head"),
        ("lora_target=c_attn,c_fc additional_target=ln_f,wte", ""),
        ("lora_target=transformer.h.0.attn.c_attn", ""),
        ("finetuning_type=freeze freeze_trainable_modules=mlp freeze_extra_modules=ln_f", ""),
    ],
)
@pytest.mark.parametrize("base", [True, False])
def test_gpt2(saved: Callable[..., Any], words: str, said: str, base: bool) -> None:
    """Also as its files on the hub are: without the first part of each name."""
    folder, _ = saved("gpt2")
    if not base:
        tensors = load_file(folder / "model.safetensors")
        plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        save_file(plain, folder / "model.safetensors", {"format": "pt"})
    error = refusal(folder, words)
    assert said in error
    assert bool(error) == bool(said)


@pytest.mark.parametrize(
    ("model_type", "words", "said"),
    [
        ("mixtral", "lora_target=w1", "is called 'w1'"),
        ("mixtral", "lora_target=q_proj,o_proj additional_target=mlp", ""),
        ("qwen3_moe", "lora_target=gate_proj", "is called 'gate_proj'"),
        ("qwen3_moe", "lora_target=experts.0.down_proj", "is called 'experts.0.down_proj'"),
        ("qwen2_moe", "lora_target=gate_proj", ""),
        ("qwen3_moe", "pissa_init=true lora_rank=17", "k_proj has rank 16 at most"),
        ("qwen3_moe", "pissa_init=true lora_rank=16", ""),
        ("deepseek_v3", "lora_target=kv_a_proj_with_mqa,q_b_proj", ""),
        ("gpt_neox", "lora_target=qkv", ""),
    ],
)
def test_mixtures_of_experts(saved: Callable[..., Any], model_type: str, words: str, said: str) -> None:
    """Experts are merged into one weight, which LoRA has no layer for; `gpt_neox` is left to the model to judge."""
    error = refusal(saved(model_type)[0], words)
    assert said in error
    assert bool(error) == bool(said)


@pytest.mark.parametrize(
    ("architecture", "words", "said"),
    [
        ("llama", "lora_target=query", "modules are named down_proj, embed_tokens, gate_proj"),
        ("llama", "lora_target=q_proj,down_proj additional_target=norm", ""),
        ("llama", "pissa_init=true lora_rank=17", "k_proj has rank 16 at most"),
        ("llama", "finetuning_type=oft add_tokens=<a>", ""),
        ("phi3", "lora_target=query", ""),
    ],
)
def test_gguf(tmp_path: Path, architecture: str, words: str, said: str) -> None:
    """A tokenizer inside of it is not read, and parts of architectures that are not known are not judged."""
    writer = GGUFWriter(tmp_path / "m.gguf", architecture)
    shapes = {
        "token_embd": (96, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = refusal(tmp_path / "m.gguf", words)
    assert said in error
    assert bool(error) == bool(said)


def test_files_that_do_not_tell_are_no_reason_to_refuse(saved: Callable[..., Any]) -> None:
    folder, _ = saved("llama")
    assert "vproj" in refusal(folder, "lora_target=vproj")
    (folder / "config.json").write_text(json.dumps([]))
    assert refusal(folder, "lora_target=vproj") == ""
    assert refusal(folder.parent / "nowhere", "lora_target=vproj") == ""
