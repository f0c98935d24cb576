"""Small models and features for the engine's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments

from ft.testing import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

LENGTHS = (23, 7, 41, 1, 30, 12, 5, 19)


@pytest.fixture
def features() -> list[dict[str, Any]]:
    """Eight sequences of uneven length, the first third of each a prompt; one is a single token."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in LENGTHS]
    return [{"input_ids": row, "labels": [-100] * (len(row) // 3) + row[len(row) // 3 :]} for row in rows]


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """A tiny model in training mode, trained in full or by LoRA with B away from zero."""

    def make(arch: str = "llama", tuning: str = "full", targets: Any = "all-linear", **config: Any) -> nn.Module:
        model: nn.Module = tiny_model(arch, **config)
        if tuning == "lora":
            lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
            draw = torch.Generator().manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data.normal_(std=0.1, generator=draw)
        return model.train()

    return make


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., TrainingArguments]:
    def make(**changes: Any) -> TrainingArguments:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
        }
        return TrainingArguments(**{**values, **changes})

    return make
