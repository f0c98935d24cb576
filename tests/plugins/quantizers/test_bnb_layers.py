"""Training through bitsandbytes after an evaluation, and what happens to those who do nothing about it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn.modules import _convert_weight_packed_for_cpu

from ft.testing.surgery import changed_model
from ft_plugins.quantizers._layers import bnb

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

KEYS = {"finetuning_type": "lora", "lora_rank": 4, "quantization_bit": 4}


def layers(model: Any) -> list[Linear4bit]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def evaluate(model: Any) -> None:
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(4, 28)[None])


def dead_gradients(model: Any) -> int:
    """How many of the 14 matrices B of a new adapter, which all should learn, get a gradient of exactly zero."""
    model.train()
    model.zero_grad()
    ids = torch.arange(4, 28)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    return sum(not each.grad.any() for name, each in model.named_parameters() if "lora_B" in name)


def test_an_evaluation_never_packs_the_weights_anew(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The packing is forced onto CPUs that would not choose it, so that this shows something on any."""
    model = changed_model({"model_name_or_path": tiny_model_dir, **KEYS}, tmp_path)[0].model
    assert len(layers(model)) == 14
    evaluate(model)
    assert not any(getattr(each.weight.quant_state, "packing_format_for_cpu", False) for each in layers(model))
    assert dead_gradients(model) == 0


def test_without_our_hand_an_evaluation_kills_gradients(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bitsandbytes does by itself on a CPU with AVX512-BF16; elsewhere the packing is made here."""
    monkeypatch.setattr(bnb, "make_trainable", lambda model: None)
    model = changed_model({"model_name_or_path": tiny_model_dir, **KEYS}, tmp_path)[0].model
    if all(each.support_avx512bf16_for_cpu for each in layers(model)):
        assert dead_gradients(model) == 0
        evaluate(model)
        assert dead_gradients(model) == 10  # all but those whose outputs go straight into the residual stream
    else:
        for each in layers(model):
            each.weight.data, _ = _convert_weight_packed_for_cpu(each.weight.data, each.weight.quant_state)
        assert all(each.weight.quant_state.packing_format_for_cpu for each in layers(model))


def test_eight_bits_are_the_same_in_training_and_evaluation(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"model_name_or_path": tiny_model_dir, **KEYS, "quantization_bit": 8}
    model = changed_model(keys, tmp_path)[0].model
    ids = torch.arange(4, 28)[None]
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        torch.testing.assert_close(model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    assert "cast" not in caplog.text
