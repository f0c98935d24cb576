"""Runs of adapters whose checkpoints hold more than what trains: killed and resumed they are the same to the bit."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from ft.testing import Runs

ADAPTERS = {
    "pissa": {"finetuning_type": "lora", "lora_rank": 4, "pissa_init": True, "pissa_convert": True},
    "pissa-base": {"finetuning_type": "lora", "lora_rank": 4, "pissa_init": True, "use_dora": True},
    "tokens": {"finetuning_type": "lora", "lora_rank": 4, "add_tokens": "red,blue"},
    "loraplus": {"finetuning_type": "lora", "lora_rank": 4, "loraplus_lr_ratio": 16},
    "oft": {"finetuning_type": "oft", "oft_block_size": 16},
}
QUICK = ("pissa",)


@pytest.fixture(scope="module")
def runs(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    rows = [{"instruction": f"The colour of {name}?", "output": f"{name} is red and blue."} for name in "abcdefgh"]
    (folder / "data.json").write_text(json.dumps(rows))
    always = {
        "model_name_or_path": tiny_model_dir,
        "cache_dir": folder / "cache",
        "dataset": folder / "data.json",
        "stage": "sft",
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "max_steps": 6,
        "use_cpu": True,
    }
    return Runs(always)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ADAPTERS]
)
def test_killed_and_resumed_it_is_bit_identical(name, runs, tmp_path):
    keys = ADAPTERS[name]
    whole = runs({**keys, "output_dir": tmp_path / "whole"})
    assert whole.exits == (0,), whole.output
    losses = list(whole.series("loss").values())
    assert losses[-1] < losses[0]
    killed = runs({**keys, "output_dir": tmp_path / "killed"}, kill_after=5)
    assert killed.exits == (-signal.SIGKILL,), killed.output
    resumed = runs({**keys, "output_dir": tmp_path / "killed", "resume_from_checkpoint": True})
    assert resumed.exits == (0,), resumed.output
    assert resumed.series("loss") == whole.series("loss")
    tensors, others = whole.tensors(), resumed.tensors()
    assert tensors.keys() == others.keys() != set()
    assert [each for each, tensor in others.items() if not torch.equal(tensor, tensors[each])] == []
    if name == "pissa":  # a checkpoint is an ordinary adapter of the original model, as the result is
        last = load_file(tmp_path / "whole" / "checkpoint-6" / "adapter_model.safetensors")
        assert {f"adapter_model.safetensors:{each}" for each in last} == tensors.keys()
        assert all(torch.equal(tensor, tensors[f"adapter_model.safetensors:{each}"]) for each, tensor in last.items())
