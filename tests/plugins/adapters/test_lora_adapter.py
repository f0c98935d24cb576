"""LoRA: trains what it says, saves what peft loads, and refuses what would silently not be so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ft.errors import ConfigError, DataError
from ft.testing import save_tiny_model
from ft_hookspecs import PluginInfo
from ft_plugins.adapters import lora


@pytest.fixture
def adapter(run_of, load, learn, tmp_path):
    """A function that trains and saves an adapter."""

    def make(name, folder=None, **values):
        run = run_of(**({"folder": folder} if folder else {}), **values)
        model = lora.ft_adapt_model(run, load(folder) if folder else load()).model
        learn(model)
        lora.ft_save_model(run, model, tmp_path / name)
        return tmp_path / name, model

    return make


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"use_rslora": True, "additional_target": ["embed_tokens"]}]
)
def test_plain_peft_gives_the_same_logits(options, adapter, base, logits, logits_elsewhere, load):
    folder, model = adapter("out", **options)
    torch.testing.assert_close(logits_elsewhere(base, folder), logits(model), rtol=0, atol=1e-6)
    assert not torch.allclose(logits(model), logits(load()), atol=1e-3)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_tied_embeddings_that_train_stay_tied(adapter, logits, logits_elsewhere, tmp_path):
    base = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    folder, model = adapter("out", folder=base, additional_target=["embed_tokens"])
    embedding, head = model.get_base_model().get_input_embeddings(), model.get_base_model().get_output_embeddings()
    assert torch.equal(embedding.weight, head.weight)
    torch.testing.assert_close(logits_elsewhere(base, folder), logits(model), rtol=0, atol=1e-6)


def test_only_what_is_claimed_trains(run_of, load):
    change = lora.ft_adapt_model(run_of(additional_target=["norm"]), load())
    training = [name for name, parameter in change.model.named_parameters() if parameter.requires_grad]
    claimed = tuple(f"base_model.model.{module}." for module in change.modules)
    assert training
    assert all(name.startswith(claimed) for name in training)
    assert change.summary.startswith("LoRA rank 8, alpha 16 on 15 layers: ")
    assert {name for name in change.modules if name.endswith("norm")} == {"model.norm"}  # to peft, also all that end so


def test_all_is_every_linear_layer_but_the_head(run_of, load):
    model = load()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert lora.ft_adapt_model(run_of(), model).modules == linear - {"lm_head"}


@pytest.mark.parametrize("target", ["q_proj", "layers.1.mlp.up_proj", "self_attn.v_proj"])
def test_a_target_is_the_end_of_a_name(target, run_of, load):
    modules = lora.ft_adapt_model(run_of(lora_target=[target]), load()).modules
    assert modules
    assert all(module.endswith(f".{target}") for module in modules)


@pytest.mark.parametrize(
    ("key", "names", "near"),
    [
        ("lora_target", ["q_porj"], "q_proj"),
        ("lora_target", ["q_proj", "vproj"], "v_proj"),
        ("lora_target", ["self_attn"], ""),
        ("additional_target", ["embed_token"], "embed_tokens"),
    ],
)
def test_a_name_that_means_nothing_is_an_error_even_beside_one_that_does(key, names, near, run_of, load):
    with pytest.raises(ConfigError) as caught:
        lora.ft_adapt_model(run_of(**{key: names}), load())
    assert names[-1] in caught.value.what
    assert caught.value.where == "run.yaml:1"
    assert near in caught.value.remedy


@pytest.mark.parametrize(("pure", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_dtypes_over_a_base_in_bfloat16(pure, expected, run_of, load, learn):
    run = run_of(pure_bf16=pure, additional_target=["norm", "embed_tokens", "lm_head"])
    model = lora.ft_adapt_model(run, load(dtype=torch.bfloat16)).model
    learn(model)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {expected}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_an_adapter_goes_on_training(adapter, run_of, load, logits):
    folder, before = adapter("first", lora_rank=4)
    change = lora.ft_adapt_model(run_of(adapter_name_or_path=str(folder)), load())
    assert change.summary.startswith("LoRA rank 4")
    assert str(folder) in change.summary
    torch.testing.assert_close(logits(change.model.eval()), logits(before))
    assert any(parameter.requires_grad for parameter in change.model.parameters())


@pytest.mark.parametrize("create", [False, True])
def test_all_adapters_but_the_last_are_merged(create, adapter, base, logits, logits_elsewhere):
    first, _ = adapter("first")
    second, _ = adapter("second", adapter_name_or_path=str(first), create_new_adapter=True)
    names = f"{first}, {second}"
    third, model = adapter("third", adapter_name_or_path=names, create_new_adapter=create)
    merged = [first, second] if create else [first]
    torch.testing.assert_close(logits_elsewhere(base, *merged, third), logits(model), rtol=0, atol=1e-5)


def test_merged_adapters_are_recorded(adapter, run_of, load):
    folder, _ = adapter("first")
    change = lora.ft_adapt_model(run_of(adapter_name_or_path=str(folder), create_new_adapter=True), load())
    assert change.details == {"merged_adapters": [str(folder)]}


@pytest.mark.parametrize("key", ["lora_target", "additional_target"])
def test_other_targets_than_the_continued_adapter_has(key, adapter, run_of, load):
    folder, _ = adapter("first", lora_target=["q_proj"])
    wanted = {"lora_target": ["all"], "additional_target": ["norm"]}[key]
    with pytest.raises(ConfigError, match=key):
        lora.ft_adapt_model(run_of(adapter_name_or_path=str(folder), **{key: wanted}), load())


def test_an_adapter_of_another_model_is_refused(adapter, run_of, load, tmp_path):
    folder, _ = adapter("first")
    deeper = save_tiny_model(tmp_path / "deeper", num_hidden_layers=3)
    wider = save_tiny_model(tmp_path / "wider", intermediate_size=64)
    for other in (deeper, wider):
        with pytest.raises(DataError, match="fit the model"):
            lora.ft_adapt_model(run_of(adapter_name_or_path=str(folder)), load(other))


def test_the_same_run_writes_the_same_configuration(adapter):
    folder, _ = adapter("first", lora_target=["v_proj", "q_proj", "up_proj"])
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == ["q_proj", "up_proj", "v_proj"]


# ---- before anything is loaded ------------------------------------------------------------------------------------


def problems(run):
    return list(lora.ft_check(run.plan))


def test_a_good_plan_has_no_problem(adapter, run_of):
    folder, _ = adapter("first")
    assert problems(run_of()) == []
    assert problems(run_of(adapter_name_or_path=str(folder), lora_rank=8, lora_target=["all"])) == []
    assert problems(run_of(adapter_name_or_path="org/adapter")) == []


def test_create_new_adapter_needs_one_to_start_from(run_of):
    (problem,) = problems(run_of(create_new_adapter=True))
    assert problem.keys == ("create_new_adapter",)


def test_keys_that_the_continued_adapter_contradicts(adapter, run_of):
    folder, _ = adapter("first")
    (problem,) = problems(run_of(adapter_name_or_path=str(folder), lora_rank=16))
    assert "lora_rank is 16" in problem.what
    assert problems(run_of(adapter_name_or_path=str(folder), lora_rank=16, create_new_adapter=True)) == []


def test_merging_into_quantised_weights(adapter, run_of):
    folder, _ = adapter("first")
    quantizer = (PluginInfo("quantizers", "bnb", "x", "ft", "1"),)
    (problem,) = problems(run_of(quantizer, adapter_name_or_path=str(folder), create_new_adapter=True))
    assert "'bnb'" in problem.what
    assert problems(run_of(quantizer, adapter_name_or_path=str(folder))) == []


def test_adapters_that_are_not_there_or_not_loras(adapter, run_of, tmp_path):
    folder, _ = adapter("first")
    other, pickled = tmp_path / "other", tmp_path / "pickled"
    shutil.copytree(folder, other)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"peft_type": "IA3"}
    (other / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(folder, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    expected = {"./missing": ("does not exist", 2), str(tmp_path): ("holds no adapter", 4)}
    expected |= {str(other): ("type IA3", 4), str(pickled): ("pickled", 4)}
    for name, (what, code) in expected.items():
        (problem,) = problems(run_of(adapter_name_or_path=name))
        assert what in problem.what
        assert problem.exit_code == code
