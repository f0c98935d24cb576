"""What cannot be is refused while planning, with the reason and the remedy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING

import pytest

from ft_plugins.accelerators import compile as compiling
from ft_plugins.accelerators import flash_attn

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = [
    # words, machine, what is installed, what is wrong, why, what to do
    ("flash_attn=fa2", "cpu", "", "needs an NVIDIA GPU", "already attend by PyTorch's SDPA", "flash_attn: auto"),
    ("flash_attn=fa2 use_cpu=true", "h200", "",
     "needs an NVIDIA GPU", "CPU, as use_cpu asks", "flash_attn: auto"),
    ("flash_attn=fa2", "v100", "",
     "does not run on NVIDIA V100", "capability 8.0, the device has 7.0", "flash_attn: auto"),
    ("flash_attn=fa2 attention=padded", "h200", "", "contradicts attention: padded", "no padding", "attention: auto"),
    ("flash_attn flash_attn=sdpa", "h200", "", "contradicts flash_attn: sdpa", "another kernel", "flash_attn: fa2"),
    ("flash_attn=fa2 dtype=float32", "h200", "", "cannot compute in fp32", "half precision", "bf16: true"),
    ("flash_attn=fa2 finetuning_type=full", "h200", "", "cannot compute in fp32", "half precision", "bf16: true"),
    ("flash_attn=fa2 bf16=false", "h200", "", "cannot compute in fp32", "half precision", "bf16: true"),
    ("flash_attn=fa2 flash_attn_kernel=cudnn", "a100", "",
     "does not run on NVIDIA A100", "needs compute capability 9.0", "flash_attn_kernel: torch"),
    ("flash_attn=fa2 flash_attn_kernel=fa2", "h200", "",
     "flash-attn is not installed", "", "pip install 'ft-framework[flash-attn]'"),
    ("enable_liger_kernel=true", "cpu", "liger_kernel",
     "liger needs an NVIDIA GPU", "Triton", "enable_liger_kernel: false"),
    ("liger", "cpu", "liger_kernel",
     "liger needs an NVIDIA GPU", "Triton", "leave liger out of the plugins"),
    ("enable_liger_kernel=true", "h200", "",
     "liger-kernel is not installed", "", "pip install 'ft-framework[liger]'"),
    ("enable_liger_kernel=true use_unsloth=true", "h200", "liger_kernel unsloth",
     "liger cannot be combined with unsloth", "both replace the norms and MLPs", "keep one of the two"),
    ("enable_liger_kernel=true fsdp=full_shard", "h200", "liger_kernel",
     "liger cannot be combined with fsdp", "whole weights", "take fsdp out"),
    ('enable_liger_kernel=true liger_kernel_config={"fused_linear_cross_entropy":true}', "h200", "liger_kernel",
     "fused_linear_cross_entropy cannot be on", "the loss is the engine's", "take fused_linear_cross_entropy out"),
    ("use_unsloth=true", "cpu", "unsloth", "unsloth needs an NVIDIA GPU", "Triton", "use_unsloth: false"),
    ("use_unsloth=true", "h200", "", "unsloth is not installed", "", "pip install 'ft-framework[unsloth]'"),
    ("use_unsloth=true finetuning_type=full", "h200", "unsloth",
     "unsloth cannot be combined with finetuning_type: full", "for LoRA layers", "finetuning_type: lora"),
    ("use_unsloth=true use_dora=true", "h200", "unsloth",
     "unsloth cannot be combined with use_dora", "norm of each row", "take use_dora out"),
    ("use_unsloth=true lora_dropout=0.1", "h200", "unsloth",
     "unsloth cannot be combined with lora_dropout: 0.1", "dropout", "take lora_dropout out"),
    ("use_unsloth=true quantization_bit=4 quantization_method=hqq", "h200", "unsloth",
     "unsloth cannot be combined with the quantizer hqq", "bitsandbytes weights", "leave quantisation out"),
    ("use_unsloth=true quantization_bit=8", "h200", "unsloth",
     "unsloth cannot be combined with quantization_bit: 8", "the 4-bit one", "quantization_bit: 4"),
    ("use_unsloth=true deepspeed=zero3.json", "h200", "unsloth",
     "unsloth cannot be combined with deepspeed", "whole weights", "take deepspeed out"),
    ("fused_lora use_unsloth=true", "h200", "unsloth",
     "fused_lora cannot be combined with unsloth", "the same LoRA layers", "keep one of the two"),
    ("fused_lora finetuning_type=freeze", "cpu", "",
     "fused_lora cannot be combined with finetuning_type: freeze", "no low-rank update", "finetuning_type: lora"),
    ("fused_lora lora_dropout=0.1", "cpu", "",
     "fused_lora cannot be combined with lora_dropout", "dropout", "leave fused_lora out"),
    ("fused_lora quantization_bit=4", "cpu", "",
     "fused_lora cannot be combined with the quantizer bnb", "plain weights", "leave quantisation out"),
    ("upcast_layernorm=true enable_liger_kernel=true", "h200", "liger_kernel",
     "upcast_layernorm cannot be combined with liger", "take the place of those", "keep one of the two"),
    ("upcast_layernorm=true use_unsloth=true", "h200", "unsloth",
     "upcast_layernorm cannot be combined with unsloth", "take the place of those", "keep one of the two"),
    ("torch_compile=true enable_liger_kernel=true", "h200", "liger_kernel",
     "torch_compile cannot be combined with liger", "fuses the same operations", "keep one of the two"),
    ("torch_compile=true torch_compile_mode=max-autotune", "cpu", "",
     "max-autotune cannot be used", "one for every length", "max-autotune-no-cudagraphs"),
    ("torch_compile=true fsdp=full_shard", "cpu", "",
     "torch_compile cannot be combined with fsdp", "hooks", "take fsdp out"),
    ("torch_compile=true stage=grpo", "cpu", "",
     "torch_compile cannot be combined with stage: grpo", "not those of ft's trainer", "take torch_compile out"),
    ("compile torch_compile=false", "cpu", "", "torch_compile is false", "", "keep one"),
    ("torch_compile_backend=inductor stage=rloo", "cpu", "",
     "torch_compile cannot be combined with stage: rloo", "ft's trainer", "take torch_compile out"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "machine", "installed", "what", "why", "remedy"), REFUSED)
def test_refused_while_planning(
    complaints: Callable[..., str], words: str, machine: str, installed: str, what: str, why: str, remedy: str
) -> None:
    said = complaints(words, machine, tuple(installed.split()))
    assert what in said
    assert why in said
    assert remedy in said


@pytest.mark.parametrize(
    ("words", "machine", "installed"),
    [
        ("flash_attn=fa2", "h200", ""),
        ("flash_attn=fa2 flash_attn_kernel=cudnn", "h200", ""),
        ("flash_attn=fa2 finetuning_type=full bf16=true", "a100", "flash_attn"),
        ('enable_liger_kernel=true liger_kernel_config={"rope":false}', "a100", "liger_kernel"),
        ("use_unsloth=true quantization_bit=4", "h200", "unsloth"),
        ("upcast_lmhead_output=true enable_liger_kernel=true", "h200", "liger_kernel"),
        ("torch_compile=true flash_attn=fa2", "h200", ""),
        ("torch_compile=true fused_lora", "cpu", ""),
        ("fused_lora pure_bf16=true", "cpu", ""),
    ],
)
def test_what_works_is_not_refused(complaints: Callable[..., str], words: str, machine: str, installed: str) -> None:
    assert complaints(words, machine, tuple(installed.split())) == ""


def test_without_a_compiler_inductor_is_refused(
    complaints: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    monkeypatch.delenv("CXX", raising=False)
    assert "install g++" in complaints("torch_compile=true")
    assert complaints("torch_compile=true torch_compile_backend=aot_eager") == ""


def test_pytorchs_kernel_before_it_took_a_window_is_refused(complaints: Callable[..., str]) -> None:
    said = complaints("flash_attn=fa2", "h200", torch="2.10.0+cu130")
    assert "cannot be used with torch 2.10.0" in said
    assert "neither a scale nor a window" in said
    assert "torch>=2.11" in said
    assert complaints("flash_attn=fa2", "h200", ("flash_attn",), torch="2.10.0+cu130") == ""
    assert complaints("flash_attn=fa2 flash_attn_kernel=cudnn", "h200", torch="2.10.0+cu130") == ""
    assert complaints("flash_attn=fa2", "h200", torch="2.11.0") == ""


def test_another_distribution_in_the_module_of_flash_attn_is_not_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention 4 is the distribution flash-attn-4, and its module is flash_attn.cute."""
    installed = {"flash-attn-4"}

    def distribution(name: str) -> object:
        if name not in installed:
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(flash_attn, "distribution", distribution)
    assert not flash_attn.has_package()
    installed.add("flash-attn")
    assert flash_attn.has_package()
