"""The contract of accelerators over those that need a GPU; kernels.py runs each class by pytest."""

from __future__ import annotations

from typing import ClassVar

import torch

from ft.testing.contracts import AcceleratorContract

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
