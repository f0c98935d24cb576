"""A stage may load another model than the one that trains: ``run.load_other``, by the same plugins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from ft.errors import ConfigError, DataError
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan
from ft.testing import tiny_model
from ft.training import Engine, pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

STAGE = '''
"""Learns nothing: says how far the model is from its reference before the first step."""

from ft.options import ReferenceOptions
from ft_hookspecs import hookimpl

ft_api_version = 1


@hookimpl
def ft_options():
    return ReferenceOptions


@hookimpl
def ft_prepare_dataset(run, examples, counts):
    from ft.data import prepare_supervised

    return prepare_supervised(run, examples, counts)


@hookimpl
def ft_build_trainer(run, callbacks):
    import torch

    from ft.training import PackedTrainer, evaluating, reference_for

    trainer = PackedTrainer.for_run(run, callbacks)
    reference = reference_for(run)
    batch = trainer.collate([run.train_dataset[row] for row in range(2)])
    with evaluating(run.model), torch.no_grad():
        policy = trainer.engine.log_probs(batch)
    with reference.applied() as model:
        distance = (policy - trainer.engine.log_probs(batch, model)).abs().max()
    run.metrics["distance"] = distance.item()
    run.metrics["own"] = reference.model is run.model
    return trainer
'''


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that an SFT run may have left."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def execute(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Run]:
    def carry_out(**changes: Any) -> Run:
        (tmp_path / "distance.py").write_text(STAGE)
        rows = [{"instruction": f"Count to {number}.", "output": "one two three"} for number in range(4)]
        (tmp_path / "data.json").write_text(json.dumps(rows))
        values = {
            "stage": tmp_path / "distance.py",
            "model_name_or_path": tiny_model_dir,
            "dataset": tmp_path / "data.json",
            "output_dir": tmp_path / "out",
            "overwrite_output_dir": "true",
            "cache_dir": tmp_path / "cache",
            "finetuning_type": "lora",
            "dtype": "float32",
            "max_steps": 1,
            "use_cpu": "true",
            **changes,
        }
        return run_lifecycle(*make_plan(None, [f"{key}={value}" for key, value in values.items()], ()), print)

    return carry_out


def test_without_ref_model_it_is_the_model_before_its_first_step(execute: Callable[..., Run], adapter: Path) -> None:
    """New LoRA, one that goes on after SFT, a new one on top of SFT, and full tuning."""
    after_sft = {"adapter_name_or_path": adapter}
    for keys in (
        {},
        after_sft,
        {**after_sft, "create_new_adapter": "true"},
        {"finetuning_type": "full", "dtype": "auto"},
    ):
        run = execute(**keys)
        assert run.metrics["distance"] == 0.0, keys
        assert run.metrics["own"]


def test_a_ref_model_with_its_adapters(execute: Callable[..., Run], adapter: Path, tiny_model_dir: Path) -> None:
    base = {"ref_model": tiny_model_dir}
    assert execute(**base).metrics["distance"] == 0.0
    assert execute(**base, adapter_name_or_path=adapter).metrics["distance"] > 0.1
    run = execute(**base, ref_model_adapters=adapter, adapter_name_or_path=adapter)
    assert run.metrics["distance"] < 1e-6
    assert not run.metrics["own"]
    assert f"the reference is {tiny_model_dir} with {adapter}" in run.decisions


def test_it_comes_frozen_with_its_tokenizer(execute: Callable[..., Run], adapter: Path, tiny_model_dir: Path) -> None:
    run = execute()
    other = run.load_other(str(tiny_model_dir), f"{adapter},{adapter}")
    assert not any(parameter.requires_grad for parameter in other.model.parameters())
    assert not other.model.training
    assert other.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(tiny_model_dir).get_vocab()
    merged: Any = PeftModel.from_pretrained(tiny_model(), adapter).merge_and_unload()
    expected = PeftModel.from_pretrained(merged, adapter).eval()
    batch = pack([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}])
    with torch.no_grad():
        torch.testing.assert_close(
            Engine(other.model, "padded").log_probs(batch), Engine(expected, "padded").log_probs(batch)
        )


def test_what_cannot_be_loaded_is_an_error(
    execute: Callable[..., Run], adapter: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        execute(ref_model=tmp_path / "nowhere" / "model")
    with pytest.raises(ConfigError, match="does not exist"):
        execute(ref_model=tiny_model_dir, ref_model_adapters=tmp_path / "nowhere" / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match="missing"):
        execute(ref_model=tiny_model_dir, ref_model_adapters=adapter)
