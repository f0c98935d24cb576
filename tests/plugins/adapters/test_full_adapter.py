"""Full tuning: everything trains, in float32, and what is saved is a plain transformers model."""

from __future__ import annotations

import json

import pytest
import torch

from ft.errors import ConfigError
from ft.testing import save_tiny_model
from ft_hookspecs import PluginInfo
from ft_plugins.adapters import full


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_alone_loads_what_was_saved(tied, run_of, load, learn, logits, logits_elsewhere, tmp_path):
    folder = save_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    run = run_of(folder=folder)
    model = full.ft_adapt_model(run, load(folder)).model
    model.config.use_cache = False
    learn(model)
    assert full.ft_save_model(model, tmp_path / "out")
    torch.testing.assert_close(logits_elsewhere(tmp_path / "out"), logits(model), rtol=0, atol=1e-6)
    assert not torch.equal(logits(model), logits(load(folder)))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["dtype"] == "float32"
    assert not [key for key in config if "attn_implementation" in key]
    assert model.config.use_cache is False
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_an_adapter_left_by_an_overwritten_run_is_not_put_on_top(run_of, load, logits, logits_elsewhere, tmp_path):
    from peft import LoraConfig, get_peft_model

    left = get_peft_model(load(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    left.save_pretrained(tmp_path / "out")
    model = full.ft_adapt_model(run_of(), load()).model
    assert full.ft_save_model(model, tmp_path / "out")
    torch.testing.assert_close(logits_elsewhere(tmp_path / "out"), logits(model), rtol=0, atol=1e-6)


def test_every_parameter_trains_and_every_module_is_named(run_of, load):
    model = load()
    model.requires_grad_(False)
    change = full.ft_adapt_model(run_of(), model)
    assert all(parameter.requires_grad for parameter in change.model.parameters())
    assert {name.rpartition(".")[0] for name, _ in model.named_parameters()} == change.modules
    assert "(100.0%)" in change.summary


@pytest.mark.parametrize(("pure", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_dtype_and_the_rotary_frequencies_are_left_alone(pure, expected, run_of, load):
    run = run_of(pure_bf16=pure)
    assert full.ft_model_load_options(run) == {"dtype": expected}
    model = full.ft_adapt_model(run, load(dtype=torch.bfloat16)).model
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.model.rotary_emb.inv_freq.dtype is torch.float32


def test_a_quantised_model_is_refused(run_of, load):
    model = load()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="quantised"):
        full.ft_adapt_model(run_of(), model)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"adapter_name_or_path": "a"}, "adapter_name_or_path"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"dtype": "float16", "pure_bf16": True}, "dtype"),
        ({"plugins": (PluginInfo("quantizers", "bnb", "x", "ft", "1"),)}, "quantization_bit"),
    ],
)
def test_what_cannot_be_combined_is_found_before_loading(values, key, run_of):
    (problem,) = full.ft_check(run_of(**values).plan)
    assert key in problem.keys
    assert problem.remedy


def test_a_plain_plan_has_no_problem(run_of):
    assert list(full.ft_check(run_of(dtype="bfloat16", pure_bf16=True).plan)) == []
    assert list(full.ft_check(run_of().plan)) == []
