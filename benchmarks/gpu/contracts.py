"""The contracts over the accelerators and optimizers that need a GPU; kernels.py runs each class by pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from ft.testing import save_tiny_model
from ft.testing.contracts import AcceleratorContract, OptimizerContract

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["ft.testing.pytest_plugin"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class TestLiger(AcceleratorContract):
    plugin = "liger"
    device = "cuda"
    tolerance = 1e-4  # its kernels sum in another order


class TestUnsloth(AcceleratorContract):
    plugin = "unsloth"
    device = "cuda"
    tolerance = 1e-4


class TestCompile(AcceleratorContract):
    plugin = "compile"
    device = "cuda"
    tolerance = 1e-4


class TestFlash(AcceleratorContract):
    plugin = "flash_attn"
    device = "cuda"
    common: ClassVar = {"dtype": "bfloat16"}
    tolerance = 1e-2
    claims = False


class TestFusedLora(AcceleratorContract):
    plugin = "fused_lora"
    device = DEVICE


class TestOffloaded(AcceleratorContract):
    plugin = "checkpointing"
    device = "cuda"
    keys: ClassVar = {"gradient_checkpointing": "offloaded"}
    common: ClassVar = {"gradient_checkpointing": "none"}
    claims = False


class TestEightBitAdam(OptimizerContract):
    keys: ClassVar = {"optim": "adamw_8bit", "use_cpu": DEVICE == "cpu"}


class TestPagedAdam(OptimizerContract):
    keys: ClassVar = {"optim": "paged_adamw_8bit", "use_cpu": False}

    @pytest.fixture(scope="class")
    @classmethod
    def tiny_model_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Its embeddings are large enough that bitsandbytes pages their state: 100,000 numbers."""
        return save_tiny_model(tmp_path_factory.mktemp("model"), hidden_size=512)
