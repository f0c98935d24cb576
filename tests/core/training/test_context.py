"""Samples longer than a model was made for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from ft.errors import ConfigError
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan
from ft.testing import tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

    Execute = Callable[..., Run]

REWARD = """
from ft_hookspecs import hookimpl

@hookimpl
def ft_reward(answers):
    return [1.0 for _ in answers]
"""


@pytest.fixture(scope="module")
def table_of_64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2, whose positions are looked up."""
    folder = tmp_path_factory.mktemp("gpt2")
    sizes = {"vocab_size": 384, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = AutoConfig.for_model("gpt2", **sizes, bos_token_id=0, eos_token_id=2, pad_token_id=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"instruction": "word " * 200, "output": "Yes."}) + "\n")
    (tmp_path / "reward.py").write_text(REWARD)

    def carry_out(model: Path, **keys: Any) -> Run:
        given = {
            "model_name_or_path": model, "dataset": data, "output_dir": tmp_path / "out", "overwrite_output_dir": True,
            "cache_dir": tmp_path / "cache", "max_steps": 1, "per_device_train_batch_size": 1, "use_cpu": True,
            "save_strategy": "no", **keys,
        }  # fmt: skip
        return run_lifecycle(*make_plan(None, [f"{key}={value}" for key, value in given.items()]))

    return carry_out


@pytest.mark.parametrize("more", [{"cutoff_len": 65}, {"streaming": True}, {"cutoff_len": 2048, "val_size": 0}])
def test_beyond_a_table_of_positions_it_is_refused(execute: Execute, table_of_64: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"the model has 64 positions(?s:.*)set cutoff_len: 64"):
        execute(table_of_64, finetuning_type="full", **more)


def test_within_the_table_it_trains(execute: Execute, table_of_64: Path) -> None:
    run = execute(table_of_64, finetuning_type="full", cutoff_len=64)
    assert run.metrics["train_loss"] > 0
    assert any(line.startswith("batches are packed") for line in run.decisions)


def test_prompts_count_with_their_answers(execute: Execute, table_of_64: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"prompt": "Q"}) + "\n")
    keys = {"stage": "ppo", "finetuning_type": "full", "dataset": short, "plugins": tmp_path / "reward.py"}
    with pytest.raises(ConfigError, match="the model has 64 positions"):
        execute(table_of_64, **keys, max_new_tokens=60)
    execute(table_of_64, **keys, max_new_tokens=4)


def test_where_positions_are_computed_it_is_told(execute: Execute, tiny_model_dir: Path) -> None:
    def told(**keys: Any) -> list[str]:
        run = execute(tiny_model_dir, finetuning_type="lora", **keys)
        return [line for line in run.decisions if "that the model was made for" in line]

    [line] = told(cutoff_len=600)
    assert line.endswith("set cutoff_len: 512, or rope_scaling")
    assert not told(cutoff_len=512)
    assert not told(cutoff_len=600, rope_scaling="linear")
