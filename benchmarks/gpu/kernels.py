"""Kernels compute what plain PyTorch computes: attention of packed rows, and every accelerator by its contract."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from check import Check, Place, relative

from ft.testing import tiny_model
from ft.training import Engine, pack, use_attention_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTRACTS = Path(__file__).resolve().with_name("contracts.py")
SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4, "intermediate_size": 1024}
LENGTHS = (700, 31, 1200, 64, 333)


CONTRACTS_OF = {
    "TestLiger": ("liger_kernel",),
    "TestUnsloth": ("unsloth",),
    "TestFlash": (),
    "TestCompile": (),
    "TestOffloaded": (),
    "TestPagedAdam": ("bitsandbytes",),
    "TestEightBitAdam": ("bitsandbytes",),
    "TestFusedLora": (),
}
ALSO_ON_CPU = ("TestEightBitAdam", "TestFusedLora")


def checks() -> Iterable[Check]:
    """A row for each kernel and kind of attention, and one for each accelerator and optimizer that needs a GPU."""
    for kernel, needs in (("torch", ()), ("fa2", ("flash_attn",)), ("cudnn", ())):
        for arch in ("llama", "mistral-sliding", "qwen3"):
            yield Check(f"{kernel} against padded, {arch}", partial(attention, kernel, arch), needs)
    for name, needs in CONTRACTS_OF.items():
        gpu_only = name not in ALSO_ON_CPU
        yield Check(f"contract: {name}", partial(contract, name), (*needs, "pytest"), seconds=200, gpu_only=gpu_only)


def attention(kernel: Any, arch: str, place: Place) -> Mapping[str, Any]:
    """Loss and gradients in bf16, packed by the kernel and padded, both against the padded ones in fp32.

    The row has sequences that share a prompt too. The kernel may be no further from fp32 than the padded forward
    is, but for what rounding explains: half as far again, and 0.2 %.
    """
    batch = rows(place)
    exact_loss, exact = gradients(arch, None, torch.float32, batch, place)
    padded_loss, padded = gradients(arch, None, torch.bfloat16, batch, place)
    loss, found = gradients(arch, kernel, torch.bfloat16, batch, place)
    theirs, ours = relative(padded, exact), relative(found, exact)
    assert abs(loss - exact_loss) <= 1.5 * abs(padded_loss - exact_loss) + 2e-3 * exact_loss, (loss, exact_loss)
    assert ours <= 1.5 * theirs + 2e-3, f"gradients are off by {ours:.2e}, the padded ones by {theirs:.2e}"
    found_out = {"cuDNN takes it": cudnn_takes(arch)} if kernel == "cudnn" and place.device == "cuda" else {}
    figures = {"loss": round(loss, 5), "fp32": round(exact_loss, 5)}
    return {**figures, "gradients off": f"{ours:.1e} (padded {theirs:.1e})", **found_out}


def cudnn_takes(arch: str) -> bool:
    """Whether cuDNN computes a whole sequence of this shape itself; what it does not take goes to FlashAttention."""
    from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

    config = tiny_model(arch, **SIZES).config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q, k, v = (
        torch.empty(1, heads, 64, size, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)
    )
    return bool(can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, True, q.shape != k.shape)))


def rows(place: Place) -> Any:
    draw = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(4, 384, (max(3, length // (20 if place.tiny else 1)),), generator=draw).tolist()

    def learned(length: int) -> dict[str, list[int]]:
        return {"input_ids": (ids := tokens(length)), "labels": ids}

    pair = {"prompt_ids": tokens(300), "branches": [learned(150), learned(90)]}
    batch = pack([*map(learned, LENGTHS), pair])
    return {name: each.to(place.device) if hasattr(each, "to") else each for name, each in batch.items()}


def gradients(arch: str, kernel: Any, dtype: torch.dtype, batch: Any, place: Place) -> tuple[float, torch.Tensor]:
    """The loss, and all gradients in a row."""
    sizes = {"sliding_window": 128} if arch == "mistral-sliding" else {}
    model = tiny_model(arch, max_position_embeddings=4096, **({} if place.tiny else SIZES), **sizes)
    model.to(place.device, dtype).train()
    if kernel is not None:
        use_attention_kernel(model, kernel)
    engine = Engine(model, "padded" if kernel is None else "packed")
    loss = engine.cross_entropy(batch, len(batch["targets"]))
    loss.backward()
    return loss.item(), torch.cat([each.grad.flatten().float() for each in model.parameters()])


def contract(name: str, _: Place) -> Mapping[str, Any]:
    """The contract class of an accelerator, by pytest."""
    quiet = ("-q", "--tb=short", "--disable-warnings", "-p", "no:cacheprovider")
    words = [sys.executable, "-m", "pytest", *quiet, f"{CONTRACTS}::{name}"]
    root = CONTRACTS.parents[2]  # not this folder, whose kernels.py would be taken for the package of that name
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"pytest": next(word for word in reversed(done.stdout.splitlines()) if "passed" in word)}
