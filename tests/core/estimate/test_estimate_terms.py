"""The formulas of activations are what autograd keeps, to the byte, and the other terms what PyTorch allocates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, LlamaConfig

from ft.estimate import peak, read_shape, terms
from ft.estimate.terms import activations, around, layer
from ft.training import Engine, pack
from ft_hookspecs import Estimate, ModelShape
from ft_plugins.accelerators._layers.recompute import checkpoint_layers

LENGTHS = (600, 520)
TOKENS = sum(LENGTHS)
RANK = 8
CASES: dict[str, dict[str, Any]] = {
    "full fp32": {"trains_matrices": True},
    "full bf16 autocast": {"trains_matrices": True, "compute_bytes": 2},
    "pure bf16": {"trains_matrices": True, "trained_bytes": 2, "compute_bytes": 2, "stream_bytes": 2},
    "lora fp32": {"adapted": ""},
    "lora on q and v": {"adapted": ("q_proj", "v_proj")},
    "lora with dropout": {"adapted": "", "mask_bytes": 4},
    "lora over bf16": {"adapted": "", "compute_bytes": 2, "stream_bytes": 2},
}


def llama(layers: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A Llama of middle size: hidden 256, vocabulary 8,192."""
    config = LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=704, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


@cache
def shape(layers: int) -> ModelShape:
    with TemporaryDirectory() as folder:
        llama(layers).save_pretrained(folder)
        return read_shape(Path(folder))


def estimate(case: dict[str, Any], layers: int, attention: str, **more: Any) -> Estimate:
    settings, sizes = dict(case), shape(layers)
    ends = settings.pop("adapted", None)
    found = Estimate(sizes, tokens=TOKENS, longest=LENGTHS[0], packed=attention == "packed", **settings, **more)
    if ends is None:
        return found
    names = tuple(name for name in sizes.matrices if name.endswith(ends))
    added = RANK * sum(sum(sizes.matrices[name]) for name in names)
    return replace(found, adapted=names, added=added, trained=added)


def trained(case: dict[str, Any], layers: int) -> nn.Module:
    built = llama(layers, torch.bfloat16 if case.get("stream_bytes") == 2 else torch.float32)
    if (ends := case.get("adapted")) is not None:
        lora = LoraConfig(
            r=RANK, target_modules=list(ends) or "all-linear", lora_dropout=0.1 if case.get("mask_bytes") else 0.0,
            task_type="CAUSAL_LM",
        )  # fmt: skip
        built = get_peft_model(built, lora).float() if case.get("stream_bytes") != 2 else get_peft_model(built, lora)
        for parameter in built.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return built


def kept(built: nn.Module, attention: Any, *, autocast: bool) -> int:
    """Bytes that autograd keeps of one step's forward, each storage once, weights and buffers not counted."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 8000, (length,), generator=draw).tolist() for length in LENGTHS]
    batch = pack([{"input_ids": row, "labels": row} for row in rows])
    known = {each.untyped_storage().data_ptr() for each in (*built.parameters(), *built.buffers())}
    sizes: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    engine = Engine(built, attention)
    engine.checked = True
    with saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        engine.cross_entropy(batch, 1.0)
    return sum(size for place, size in sizes.items() if place not in known)


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_keeps_what_its_formula_says(case, attention):
    settings = CASES[case]
    autocast = settings.get("compute_bytes") == 2 and "stream_bytes" not in settings
    two, three = (kept(trained(settings, layers), attention, autocast=autocast) for layers in (2, 3))
    cast = 2 * sum(out * into for out, into in shape(1).matrices.values()) if autocast else 0
    tokens = TOKENS if attention == "packed" else len(LENGTHS) * LENGTHS[0]
    said = estimate(settings, 1, attention)
    assert three - two - cast == pytest.approx(tokens * layer(said), rel=1e-9)


@pytest.mark.parametrize("case", ["full fp32", "lora fp32", "lora over bf16"])
def test_the_whole_of_a_packed_step(case):
    found = kept(trained(CASES[case], 3), "packed", autocast=False)
    said = estimate(CASES[case], 3, "packed")
    assert found == pytest.approx(TOKENS * (3 * layer(said) + around(said)), rel=2e-3)


@pytest.mark.parametrize(("mode", "options"), [("full", {}), ("selective", {"every": 2})])
def test_what_checkpointing_leaves(mode, options):
    """The difference to a run without it, one recomputed layer apart, which exists later."""
    case, saved = CASES["lora fp32"], []
    for each in (None, mode):
        built = trained(case, 4)
        if each:
            checkpoint_layers(built, each, **options)
        saved.append(kept(built, "packed", autocast=False))
    said = [estimate(case, 4, "packed", checkpointing=each) for each in ("none", mode)]
    expected = activations(said[0]) - activations(said[1]) + TOKENS * layer(said[1])
    first = TOKENS * 256 * 4  # frozen embeddings: the first layer's input needs no gradient and is the model's own
    assert saved[0] - saved[1] == pytest.approx(expected, abs=2 * first)


def test_the_largest_moment_counts_what_exists_together():
    base = replace(estimate(CASES["full fp32"], 3, "packed"), trained=10**8, state_bytes=8)
    sizes = {term.name: term.bytes for term in terms(base)}
    fixed, moving = sizes["weights"] + sizes["optimizer states"], sizes["activations"] + sizes["logits"]
    assert sizes["gradients"] == 4e8 > moving
    assert fixed + sizes["gradients"] < peak(base) < fixed + sizes["gradients"] + moving
    assert peak(replace(base, accumulates=True)) == fixed + sizes["gradients"] + moving


def test_quantised_matrices_are_small_and_the_rest_is_not():
    plain = estimate(CASES["lora fp32"], 3, "packed")
    quantised = replace(plain, matrix_bytes=0.5)
    matrices = sum(out * into for out, into in plain.shape.matrices.values())
    saved = terms(plain)[0].bytes - terms(quantised)[0].bytes
    assert saved == matrices * 3.5


def test_padded_logits_are_of_all_tokens():
    packed, padded = (
        {term.name: term.bytes for term in terms(estimate(CASES["lora fp32"], 3, attention))}
        for attention in ("packed", "padded")
    )
    assert padded["logits"] == TOKENS * 8192 * 8
    assert packed["logits"] == pytest.approx(TOKENS * 8192 * 8 + TOKENS * 256 * 4)  # one chunk holds them all here
