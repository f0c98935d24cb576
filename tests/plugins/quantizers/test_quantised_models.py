"""Quantised models in a run: files that are quantised already, a second model, and every stage."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from ft.auxiliary_models import load_other
from ft.errors import ConfigError, FtError
from ft.quantization import dequantized, quantization_of
from ft.testing import Runs, save_tiny_model, tiny_tokenizer
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from pathlib import Path

QUANTIZERS = {
    "bnb-4": {"quantization_bit": 4},
    "bnb-8": {"quantization_bit": 8},
    "hqq-4": {"quantization_bit": 4, "quantization_method": "hqq"},
    "eetq-8": {"quantization_method": "eetq"},
}


@pytest.fixture(scope="module")
def files(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that bitsandbytes quantised to 4 bits, the rest in float32."""
    folder = tmp_path_factory.mktemp("files")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_quantised_by_bitsandbytes(dtype: str, files: Path, tmp_path: Path) -> None:
    saved = AutoModelForCausalLM.from_pretrained(files)
    run, _ = changed_model({"model_name_or_path": files, "dtype": dtype}, tmp_path)
    info, change = run.changes[0]
    assert (info.name, change.details["quantization"]) == ("prequantized", "bnb-4")
    assert "as its files are" in change.summary
    base = run.model.get_base_model()
    wanted = dequantized(saved.get_submodule("model.layers.0.mlp.up_proj"))
    torch.testing.assert_close(dequantized(base.get_submodule("model.layers.0.mlp.up_proj")), wanted)
    assert not any(getattr(each, "support_avx512bf16_for_cpu", False) for each in run.model.modules())
    assert str(base.dtype) == str(base.model.norm.weight.dtype) == f"torch.{dtype}"
    ids = torch.arange(4, 28)[None]
    run.model(input_ids=ids, labels=ids).loss.backward()
    assert all(each.grad.any() for name, each in run.model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize(
    "keys", [{"create_new_adapter": True, "adapter_name_or_path": "org/a"}, {"adapter_name_or_path": "org/a,org/b"}]
)
def test_nothing_is_merged_into_files_that_are_quantised(keys: dict[str, Any], files: Path, tmp_path: Path) -> None:
    with pytest.raises(FtError, match="cannot be merged into weights quantised") as caught:
        changed_model({"model_name_or_path": files, **keys}, tmp_path)
    assert "unquantised model first" in str(caught.value)
    assert "command line: " in str(caught.value)


@pytest.mark.parametrize("name", [*QUANTIZERS, "files"])
def test_new_tokens_beside_quantised_weights(name: str, files: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Embeddings and head stay plain numbers, so that they grow and train; what is saved loads in plain peft."""
    folder = files if name == "files" else tiny_model_dir
    keys = {"model_name_or_path": folder, "add_tokens": "<a>,<b>", **QUANTIZERS.get(name, {})}
    run, plugins = changed_model(keys, tmp_path)
    ids = torch.tensor([[384, 385, 7, 384]])
    run.model.train()(input_ids=ids, labels=ids).loss.backward()
    ends = (run.model.get_input_embeddings().weight, run.model.get_output_embeddings().weight)
    assert all(len(end) == 386 and end.grad[384:].any() for end in ends)
    assert quantization_of(run.model)
    assert plugins.hook.ft_save_model(run=run, model=run.model, folder=tmp_path / "out")
    run.tokenizer.save_pretrained(tmp_path / "out")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(loaded.get_input_embeddings().weight, ends[0])


def test_quantised_files_that_no_plugin_answers_for(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a model of the hub that had not been fetched while planning."""
    monkeypatch.setattr("ft.surgery.quantization_of", lambda model: "gptq")
    with pytest.raises(ConfigError, match="was not known while planning"):
        changed_model({"model_name_or_path": tiny_model_dir}, tmp_path)


@pytest.mark.parametrize(("name", "keys"), QUANTIZERS.items(), ids=QUANTIZERS)
def test_a_second_model_is_quantised_and_the_policy_is_not(
    name: str, keys: dict[str, Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    bits = keys.get("quantization_bit", 8)
    second = save_tiny_model(tmp_path / "second", seed=1)
    method = {"quantization_method": keys.get("quantization_method")}
    asked = {"stage": "dpo", "finetuning_type": "full", "ref_model": second, "ref_model_quantization_bit": bits}
    run, plugins = changed_model({"model_name_or_path": tiny_model_dir, **asked, **method}, tmp_path)
    assert quantization_of(run.model) is None
    other = load_other(run, plugins, str(second), None, bits)
    assert quantization_of(other.model) == name
    assert any(name in line for line in run.decisions)
    assert quantization_of(load_other(run, plugins, str(second)).model) is None


def test_rows_that_are_no_whole_number_of_groups(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen2", intermediate_size=72)
    keys = {"model_name_or_path": folder, **QUANTIZERS["hqq-4"]}
    with pytest.raises(FtError, match="does not divide the rows of 2 layers") as caught:
        changed_model(keys, tmp_path)
    assert "set hqq_group_size to 8" in str(caught.value)
    run, _ = changed_model({**keys, "hqq_group_size": 8}, tmp_path)  # with biases, which must stay out of its backward
    ids = torch.arange(4, 28)[None]
    run.model(input_ids=ids, labels=ids).loss.backward()


@pytest.mark.parametrize("name", ["hqq-4", "eetq-8"])
def test_a_quantizer_that_finds_nothing_to_do_is_no_quantizer(name: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 384, "n_positions": 64, "n_embd": 64, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="found no layer of GPT2LMHeadModel to quantise") as caught:
        changed_model({"model_name_or_path": tmp_path / "gpt2", **QUANTIZERS[name]}, tmp_path)
    assert "quantization_method: bnb" in caught.value.remedy
    assert "quantization_" in caught.value.where


# ---- whole runs


GROUPS = {"num_generations": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
STAGES = {
    "sft": ({}, {"instruction": "Say it.", "output": "one two three"}),
    "rm": ({}, {"prompt": "Say it.", "chosen": "one two", "rejected": "three"}),
    "dpo": ({}, {"prompt": "Say it.", "chosen": "one two", "rejected": "three"}),
    "kto": ({}, {"instruction": "Say it.", "output": "one"}),
    "ppo": ({"max_new_tokens": 6, "ppo_epochs": 1}, {"instruction": "Say it.", "output": "one"}),
    "grpo": ({"max_new_tokens": 6, **GROUPS}, {"instruction": "Say it.", "output": "one"}),
    "rloo": ({"max_new_tokens": 6, **GROUPS}, {"instruction": "Say it.", "output": "one"}),
}
DRAWING = ("ppo", "grpo", "rloo")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs_and_saves(stage: str, name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    more, row = STAGES[stage]
    rows = [{**row, "kto_tag": n % 2 == 0} if stage == "kto" else row for n in range(8)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    (tmp_path / "reward.py").write_text(
        "from ft_hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def ft_reward(answers):\n"
        "    return [float(len(answer)) for answer in answers]\n"
    )
    keys = {
        "stage": stage,
        "model_name_or_path": tiny_model_dir,
        "dataset": tmp_path / "data.json",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "val_size": 2,
        "eval_on_start": True,
        "dtype": "float32",
    }
    plugins = [str(tmp_path / "reward.py")] if stage in DRAWING else []
    done = Runs()({**keys, **more, **QUANTIZERS[name]}, plugins=plugins)
    assert done.exits == (0,), done.output
    losses = list(done.series("loss").values())
    assert all(map(math.isfinite, losses))
    if stage == "dpo":  # the reference is asked in evaluation and the policy in training: they must be the same model
        assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    if stage not in DRAWING:
        assert "batches are packed" in done.output
    tensors = done.tensors()
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
