"""A run on a tiny model, with the options of an adapter and marks of what the user set."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ft.options import ModelOptions
from ft.testing import save_tiny_model
from ft_hookspecs import ModelFiles, Plan, PluginInfo, Run, Source
from ft_plugins.adapters.freeze import FreezeOptions
from ft_plugins.adapters.lora import LoraOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def run_of(base: Path) -> Callable[..., Run]:
    def make(plugins: tuple[PluginInfo, ...] = (), folder: Path = base, **values: Any) -> Run:
        own = (LoraOptions, FreezeOptions)
        given = [{key: value for key, value in values.items() if key in model.model_fields} for model in own]
        rest = {key: value for key, value in values.items() if not any(key in each for each in given)}
        adapters = [model(**each) for model, each in zip(own, given, strict=True)]
        models = (ModelOptions(model_name_or_path=str(folder), **rest), *adapters)
        flat = {key: value for model in models for key, value in model.model_dump().items()}
        sources = {key: Source("file", f"run.yaml:{line}") for line, key in enumerate(values, 1)}
        return Run(Plan(flat, sources, plugins, models, None), model_files=ModelFiles(str(folder)))

    return make


@pytest.fixture
def load(base: Path) -> Callable[..., Any]:
    def make(folder: Path = base, dtype: torch.dtype = torch.float32) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    return make


@pytest.fixture
def learn() -> Callable[..., None]:
    """Two real optimizer steps, so that what is saved is not what was there at the start."""

    def steps(model: Any) -> None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for seed in range(2):
            ids = torch.randint(0, 384, (2, 12), generator=torch.Generator().manual_seed(seed))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()

    return steps


IDS = torch.arange(5, 25).view(2, 10)


@pytest.fixture
def logits() -> Callable[[Any], torch.Tensor]:
    def compute(model: Any) -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = model(input_ids=IDS).logits
        return result

    return compute


LOADER = """
import json, sys
for name in ("ft", "ft_plugins", "ft_hookspecs"):
    sys.modules[name] = None  # importing it would fail
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

for line in sys.stdin:
    base, out, *adapters = json.loads(line)
    model = AutoModelForCausalLM.from_pretrained(base)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter)
        if adapter != adapters[-1]:
            model = model.merge_and_unload()
    with torch.no_grad():
        save_file({"logits": model(input_ids=torch.arange(5, 25).view(2, 10)).logits}, out)
    print("done", flush=True)
"""


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[subprocess.Popen[str]]:
    """A process with transformers and peft alone; one for all tests, because their import costs seconds."""
    command = [sys.executable, "-c", LOADER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def logits_elsewhere(elsewhere: subprocess.Popen[str], tmp_path: Path) -> Callable[..., torch.Tensor]:
    """The logits that the other process gets from the files: a base, and adapters of which all but the last merge."""

    def compute(folder: Path, *adapters: Path) -> torch.Tensor:
        out = tmp_path / "logits.safetensors"
        print(json.dumps([str(path) for path in (folder, out, *adapters)]), file=elsewhere.stdin, flush=True)
        assert elsewhere.stdout.readline() == "done\n"
        return load_file(out)["logits"]

    return compute
