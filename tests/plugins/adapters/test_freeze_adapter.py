"""Freeze tuning: exactly the chosen modules train, and what is saved is a plain transformers model."""

from __future__ import annotations

import pytest
import torch

from ft.errors import ConfigError
from ft.testing import save_tiny_model
from ft_hookspecs import PluginInfo
from ft_plugins.adapters import freeze


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("four") / "base", num_hidden_layers=4)


def training(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ({}, {2, 3}),
        ({"freeze_trainable_layers": 1}, {3}),
        ({"freeze_trainable_layers": -3}, {0, 1, 2}),
        ({"freeze_trainable_layers": 4}, {0, 1, 2, 3}),
        ({"freeze_trainable_layers": 2, "use_llama_pro": True}, {1, 3}),
        ({"freeze_trainable_layers": 1, "use_llama_pro": True}, {3}),
    ],
)
def test_exactly_the_chosen_layers_train(values, layers, four, run_of, load):
    change = freeze.ft_adapt_model(run_of(**values), load(four))
    names = {name for name, _ in change.model.named_parameters() for n in layers if f".layers.{n}." in name}
    assert training(change.model) == names
    assert change.modules == {f"model.layers.{number}" for number in layers}


@pytest.mark.parametrize(
    ("values", "modules"),
    [
        ({"freeze_trainable_modules": ["mlp"]}, {"model.layers.3.mlp"}),
        ({"freeze_trainable_modules": ["q_proj", "self_attn"]}, {"model.layers.3.self_attn"}),
        ({"freeze_trainable_modules": ["mlp.up_proj"]}, {"model.layers.3.mlp.up_proj"}),
        ({"freeze_extra_modules": ["norm"]}, {"model.layers.3", "model.norm"}),
        ({"freeze_extra_modules": ["lm_head", "embed_tokens"]}, {"model.layers.3", "lm_head", "model.embed_tokens"}),
    ],
)
def test_modules_are_meant_exactly(values, modules, four, run_of, load):
    model = freeze.ft_adapt_model(run_of(freeze_trainable_layers=1, **values), load(four)).model
    inside = {n for n, _ in model.named_parameters() if any(n.startswith(f"{module}.") for module in modules)}
    assert training(model) == inside


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"freeze_trainable_layers": 5}, "has 4 layers"),
        ({"freeze_trainable_layers": -5}, "has 4 layers"),
        ({"freeze_trainable_layers": 3, "use_llama_pro": True}, "equal groups"),
        ({"freeze_trainable_modules": ["mpl"]}, "mpl"),
        ({"freeze_extra_modules": ["q_proj"]}, "q_proj"),
        ({"freeze_extra_modules": ["nrom"]}, "nrom"),
    ],
)
def test_what_the_model_does_not_have_is_an_error_with_a_remedy(values, says, four, run_of, load):
    with pytest.raises(ConfigError, match=says) as error:
        freeze.ft_adapt_model(run_of(**values), load(four))
    assert error.value.remedy
    assert error.value.where.startswith("run.yaml:")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"freeze_trainable_layers": 0}, "freeze_trainable_layers"),
        ({"freeze_trainable_layers": -2, "use_llama_pro": True}, "use_llama_pro"),
        ({"adapter_name_or_path": "a"}, "adapter_name_or_path"),
        ({"plugins": (PluginInfo("quantizers", "bnb", "x", "ft", "1"),)}, "quantization_bit"),
    ],
)
def test_what_cannot_be_is_found_before_loading(values, key, run_of):
    (problem,) = freeze.ft_check(run_of(**values).plan)
    assert key in problem.keys
    assert problem.remedy


def test_experts_inside_a_layer_are_no_layers(load):
    model = load()
    model.model.layers[0].mlp.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(8))
    assert freeze.find_layers(model) == ["model.layers.0", "model.layers.1"]


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_alone_loads_what_was_saved(tied, run_of, load, learn, logits, logits_elsewhere, tmp_path):
    folder = save_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    model = freeze.ft_adapt_model(run_of(freeze_trainable_layers=1, freeze_extra_modules=["norm"]), load(folder)).model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    learn(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == training(model)
    assert freeze.ft_save_model(model, tmp_path / "out")
    torch.testing.assert_close(logits_elsewhere(tmp_path / "out"), logits(model), rtol=0, atol=1e-6)


def test_in_a_bf16_model_the_trained_weights_are_float32_and_the_products_bf16(four, run_of, load, learn):
    plain = load(four, dtype=torch.bfloat16)
    run = run_of(freeze_trainable_layers=1, freeze_extra_modules=["lm_head"])
    model = freeze.ft_adapt_model(run, load(four, dtype=torch.bfloat16)).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, plain(input_ids=ids).logits
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    learn(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == training(model)


def test_a_quantised_layer_is_refused(four, run_of, load):
    model = load(four)
    layer = model.model.layers[3].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="quantised"):
        freeze.ft_adapt_model(run_of(), model)
