"""The contract of accelerators over those that run on a CPU; benchmarks/gpu has the others, by the same class."""

import pytest

from ft.testing.contracts import AcceleratorContract


class TestFusedLora(AcceleratorContract):
    plugin = "fused_lora"


class TestCheckpointing(AcceleratorContract):
    plugin = "checkpointing"
    keys = {"gradient_checkpointing": "full"}
    common = {"gradient_checkpointing": "none"}
    claims = False


@pytest.mark.slow
class TestCompile(AcceleratorContract):
    plugin = "compile"
    keys = {"torch_compile_backend": "aot_eager"}  # traces forward and backward as inductor does, writes no C++


@pytest.mark.slow
class TestCompileFull(AcceleratorContract):
    plugin = "compile"
    keys = {"torch_compile_backend": "aot_eager"}
    common = {"finetuning_type": "full"}


@pytest.mark.slow
class TestCompileByInductor(AcceleratorContract):
    plugin = "compile"
    common = {"gradient_checkpointing": True}
