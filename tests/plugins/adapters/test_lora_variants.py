"""PiSSA, LoRA+ and new tokens: what begins, learns and is saved."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft.errors import DataError, FtError
from ft.testing import changed_model, save_tiny_model
from ft_hookspecs import PluginInfo
from ft_plugins.adapters import _loraplus, _pissa, lora

IDS = torch.arange(5, 69).view(2, 32)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def changed(tiny_model_dir, tmp_path):
    def make(model=tiny_model_dir, **keys):
        return changed_model({"model_name_or_path": model, "lora_rank": 4, **keys}, tmp_path)[0]

    return make


# ---- PiSSA


@pytest.mark.parametrize("iterations", [-1, 16])
def test_pissa_begins_as_the_model_and_holds_its_principal_part(iterations, changed, tiny_model_dir):
    model = changed(pissa_init=True, pissa_iter=iterations).model
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-5)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    singular = torch.linalg.svdvals(plain.model.layers[0].mlp.up_proj.weight)
    held = torch.linalg.svdvals(layer.get_delta_weight("default"))[:4]
    torch.testing.assert_close(held, singular[:4], rtol=1e-2, atol=0)
    left = torch.linalg.svdvals(layer.base_layer.weight)
    torch.testing.assert_close(left[:8], singular[4:12], rtol=1e-2, atol=0)


def test_another_machines_decomposition_is_put_right(changed, tmp_path):
    saved = changed(pissa_init=True).model
    for parameter in saved.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    saved.save_pretrained(tmp_path / "checkpoint")
    other = changed(pissa_init=True, seed=7, pissa_iter=1).model
    assert not torch.equal(*(next(iter(model._start.values())) for model in (saved, other)))
    other.load_adapter(str(tmp_path / "checkpoint"), "default", is_trainable=True)
    torch.testing.assert_close(logits(other), logits(saved), rtol=0, atol=1e-5)
    other.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("checkpoint", "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_an_unconverted_adapter_is_refused_on_the_original_model(changed, tiny_model_dir, tmp_path):
    run = changed(pissa_init=True)
    folder = tmp_path / "pissa"
    assert lora.ft_save_model(run, run.model, folder)
    assert "residual_base" in run.decisions[-1]
    assert json.loads((folder / "adapter_config.json").read_text())["init_lora_weights"] is True
    with pytest.raises(FtError, match="does not belong on the original"):
        changed(adapter_name_or_path=folder)
    went_on = changed(model=folder / "residual_base", adapter_name_or_path=folder)
    torch.testing.assert_close(logits(went_on.model), logits(run.model), rtol=0, atol=1e-6)


def test_pissa_cannot_change_quantised_weights_or_the_base_of_a_reward_adapter(run_of):
    quantizer = (PluginInfo("quantizers", "bnb", "x", "ft", "1"),)
    (problem,) = _pissa.problems(run_of(quantizer, pissa_init=True).plan)
    assert "'bnb'" in problem.what
    assert "residual_base" in problem.remedy
    plan = run_of(pissa_init=True).plan
    plan.values.update(reward_model="somewhere", reward_model_type="lora")
    (problem,) = _pissa.problems(plan)
    assert "reward_model_type: full" in problem.remedy


# ---- LoRA+


def test_loraplus_gives_each_matrix_its_rate(changed):
    run = changed(
        lora_target="embed_tokens,q_proj",
        additional_target="norm",
        loraplus_lr_ratio=16,
        loraplus_lr_embedding=1e-5,
        learning_rate=1e-3,
        weight_decay=0.1,
    )
    groups = _loraplus.groups(run.plan, run.model)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    found = {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert found.keys() == {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    for name, rates in found.items():
        expected = 1.6e-2 if ".lora_B." in name else 1e-5 if "lora_embedding_" in name else 1e-3
        assert rates == pytest.approx((expected, 0.0 if "norm" in name else 0.1)), name
    assert {rate for rate, _ in found.values()} == {1e-3, 1.6e-2, 1e-5}
    assert _loraplus.groups(changed().plan, run.model) is None


# ---- new tokens


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_train_and_load_in_plain_peft(tied, changed, learn, tmp_path):
    from peft import AutoPeftModelForCausalLM

    base = save_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    run = changed(model=base, add_tokens="<a>", add_special_tokens="<b>,<s>")
    assert any("<s>" in line and "already" in line for line in run.decisions)
    assert len(run.tokenizer) == 386
    assert run.tokenizer.encode("<a><b>", add_special_tokens=False) == [384, 385]
    embeddings = run.model.get_input_embeddings().weight
    before = embeddings.detach().clone()
    ids = torch.tensor([[384, 385, 7, 384]])
    run.model(input_ids=ids, labels=ids).loss.backward()
    assert embeddings.grad[384:].abs().sum() > 0
    learn(run.model)
    assert not torch.equal(embeddings[384:], before[384:])
    if tied:
        assert torch.equal(run.model.get_output_embeddings().weight, embeddings)
    assert lora.ft_save_model(run, run.model, tmp_path / "out")
    run.tokenizer.save_pretrained(tmp_path / "out")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), logits(run.model), rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([384, 385], skip_special_tokens=True) == "<a>"


def test_going_on_needs_the_same_tokens(changed, tmp_path):
    run = changed(add_tokens="<a>")
    assert lora.ft_save_model(run, run.model, tmp_path / "first")
    went_on = changed(add_tokens="<a>", adapter_name_or_path=tmp_path / "first")
    torch.testing.assert_close(logits(went_on.model), logits(run.model), rtol=0, atol=1e-6)
    with pytest.raises(DataError) as error:
        changed(adapter_name_or_path=tmp_path / "first")
    assert "add_tokens of its run" in error.value.remedy


def test_descriptions_are_where_new_tokens_begin(changed, tmp_path, tiny_model_dir):
    (tmp_path / "tokens.yaml").write_text("'<ask>': question\n'<tell>': answer\n")
    keys = {"new_special_tokens_config": tmp_path / "tokens.yaml"}
    run = changed(**keys, init_special_tokens="desc_init")
    weight = run.model.get_input_embeddings().weight
    for row, text in ((384, "question"), (385, "answer")):
        expected = weight[run.tokenizer.encode(text, add_special_tokens=False)].mean(0)
        torch.testing.assert_close(weight[row], expected)
    noisy = changed(**keys, init_special_tokens="desc_init_w_noise").model.get_input_embeddings().weight
    assert not torch.equal(noisy[384:], weight[384:])
    again = changed(**keys, init_special_tokens="desc_init_w_noise").model.get_input_embeddings().weight
    assert torch.equal(noisy, again)


def test_resize_vocab_says_when_there_is_nothing_to_do(changed):
    assert any("resize_vocab changes nothing" in line for line in changed(resize_vocab=True).decisions)
