"""Loading: every weight from the files, the tokenizer able to pad, conflicts and gaps named."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft import modeling
from ft.errors import DataError, PluginError
from ft.options import ModelOptions
from ft.testing import save_tiny_model, tiny_model, tiny_tokenizer
from ft_hookspecs import ModelFiles, Plan, PluginInfo


@pytest.fixture
def folder(tmp_path):
    return save_tiny_model(tmp_path / "model")


@pytest.fixture
def plan():
    model = ModelOptions(model_name_or_path="x", dtype="float32", hf_hub_token="hf_secret")
    return Plan(model.model_dump(), {}, (), (model,), None)


def test_the_model_is_the_one_in_the_files(folder, plan):
    model = modeling.load_model(ModelFiles(str(folder)), {}, plan)
    expected = tiny_model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"


def test_eager_attention_where_it_was_asked_for(folder):
    options = ModelOptions(model_name_or_path="x", flash_attn="disabled")
    plan = Plan(options.model_dump(), {}, (), (options,), None)
    assert modeling.load_model(ModelFiles(str(folder)), {}, plan).config._attn_implementation == "eager"


def test_options_of_plugins_win_and_a_choice_is_told(folder, plan):
    notes = []
    model = modeling.load_model(ModelFiles(str(folder)), {"attn_implementation": "eager"}, plan, notes.append)
    assert model.config._attn_implementation == "eager"
    assert notes == ["weights are loaded as float32: dtype was asked for"]
    model = modeling.load_model(ModelFiles(str(folder)), {"dtype": torch.bfloat16}, plan, notes.append)
    assert model.dtype is torch.bfloat16
    assert len(notes) == 1


def test_code_of_the_files_runs_only_where_the_plan_and_the_files_allow_it(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text("from transformers import LlamaForCausalLM as Own\n\nclass Mine(Own):\n    pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "own.Mine"}}))

    def loaded(own_code, trust_remote_code):
        options = ModelOptions(model_name_or_path="x", dtype="float32", trust_remote_code=trust_remote_code)
        plan = Plan(options.model_dump(), {}, (), (options,), None)
        return type(modeling.load_model(ModelFiles(str(folder), own_code=own_code), {}, plan)).__name__

    assert loaded(own_code=True, trust_remote_code=True) == "Mine"
    assert loaded(own_code=False, trust_remote_code=True) == "LlamaForCausalLM"
    assert loaded(own_code=True, trust_remote_code=False) == "LlamaForCausalLM"


def test_a_weight_that_the_files_lack_is_an_error(folder, plan):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="1 weights") as caught:
        modeling.load_model(ModelFiles(str(folder)), {}, plan)
    assert "model.norm.weight" in caught.value.why


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"model_type": "unheard_of"}])
def test_a_configuration_that_does_not_fit_is_one_error(change, folder, plan):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(DataError) as caught:
        modeling.load_model(ModelFiles(str(folder)), {}, plan)
    assert caught.value.where == str(folder)
    assert "\n" not in caught.value.why


def test_sampling_settings_that_could_not_be_saved_are_made_whole(folder, plan, tmp_path):
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 2}')
    model = modeling.load_model(ModelFiles(str(folder)), {}, plan)
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["do_sample"] is True


def test_the_tokenizer_comes_with_padding_and_without_the_secret(folder, plan, tmp_path):
    tokenizer = modeling.load_tokenizer(ModelFiles(str(folder)), plan)
    modeling.save_tokenizer(tokenizer, None, tmp_path / "out")
    assert tokenizer.pad_token == tiny_tokenizer().pad_token
    assert "hf_secret" not in "".join(file.read_text() for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(("names", "expected"), [(("<pad>",), "<pad>"), ((), tiny_tokenizer().eos_token)])
def test_padding_is_an_unused_token_or_else_the_end_of_text(names, expected, monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    monkeypatch.setattr(modeling, "PADDING_TOKENS", tuple(name for name in names))
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    size = len(tokenizer)
    note = modeling.set_padding(tokenizer)
    assert tokenizer.pad_token == expected
    assert repr(expected) in note
    assert len(tokenizer) == size
    assert modeling.set_padding(tokenizer) == ""


def test_a_tokenizer_that_can_pad_with_nothing(monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    monkeypatch.setattr(modeling, "PADDING_TOKENS", ())
    with pytest.raises(DataError, match="neither a padding token"):
        modeling.set_padding(tokenizer)


def test_a_missing_tokenizer_is_one_error(folder, plan):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="the tokenizer cannot be loaded"):
        modeling.load_tokenizer(ModelFiles(str(folder)), plan)


def test_the_template_of_the_run_is_saved_and_the_tokenizer_left_as_it_was(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = tiny_tokenizer()
    kept = tokenizer.chat_template
    modeling.save_tokenizer(tokenizer, SimpleNamespace(text="{{ 'mine' }}"), tmp_path)
    assert tokenizer.chat_template == kept
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "{{ 'mine' }}"


def test_a_tokenizer_larger_than_the_model_is_refused():
    tokenizer = tiny_tokenizer()
    modeling.check_vocabulary(tiny_model(), tokenizer)
    tokenizer.add_tokens(["<one more>"])
    with pytest.raises(DataError, match="385 tokens and the model only 384"):
        modeling.check_vocabulary(tiny_model(), tokenizer)


def test_load_options_merge_and_conflicts_name_both_plugins():
    one, two = (PluginInfo("quantizers", name, name, f"ft-{name}", "1") for name in ("one", "two"))
    assert modeling.merge_load_options([(one, {"a": 1, "b": 2}), (two, {"a": 1, "c": 3})]) == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(PluginError) as caught:
        modeling.merge_load_options([(one, {"a": 1}), (two, {"a": 2})])
    assert "ft-one" in str(caught.value)
    assert "ft-two" in str(caught.value)


def test_sizes_count_tied_weights_once():
    model = tiny_model(tie_word_embeddings=True)
    model.requires_grad_(False)
    model.model.norm.requires_grad_(True)
    total = sum(weight.numel() for name, weight in model.state_dict().items() if name != "lm_head.weight")
    assert modeling.trainable_report(model) == f"64 of {total / 1000:.1f}K parameters (0.1%)"


def test_packed_weights_count_as_the_numbers_they_stand_for():
    model = torch.nn.Linear(4, 4, bias=False)
    model.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    model.weight.quant_state = SimpleNamespace(shape=torch.Size((4, 4)))
    assert modeling.trainable_report(model) == "0 of 16 parameters (0.0%)"
