"""Liger's or Unsloth's own kernels without a GPU, in Triton's interpreter: python benchmarks/gpu/interpreted.py liger

The plugin binds them as ever, to tiny models in fp32 with LoRA; losses and gradients are compared with plain PyTorch's.
It shows that functions of the installed versions are called rightly and compute the same; not that they compile, nor
how fast they are. It needs triton and the package (for Unsloth also its unsloth_zoo), and half a minute.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

os.environ |= {"TRITON_INTERPRET": "1", "UNSLOTH_ALLOW_CPU": "1"}  # read when triton and unsloth are imported

import numpy as np
import triton
import triton.language as tl
import typer
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as of_cuda
from triton.runtime import interpreter

BATCHES = ((33, 7, 20), (5, 40))
ARCHITECTURES = {
    "liger": ("llama", "qwen2", "qwen3", "mistral-sliding", "gemma3", "phi3"),
    "unsloth": ("llama", "qwen2", "qwen3"),
}
BOUND = 1e-5


def main(name: Annotated[str, typer.Argument(help="liger or unsloth")]) -> None:
    """A line for each architecture; the exit code says whether all agree."""
    complete_interpreter()
    worst = [compare(name, arch) for arch in ARCHITECTURES[name]]
    raise typer.Exit(int(max(worst) > BOUND))


def compare(name: str, arch: str) -> float:
    """The largest relative difference of a loss or of a parameter's gradient."""
    from check import Place, neighbour

    speed = neighbour("speed")
    losses, gradients = steps(adapted(arch))
    model = adapted(arch)
    speed.accelerate(model, name, Place("cpu", tiny=True))
    others, found = steps(model)
    differences = [abs(other / loss - 1) for loss, other in zip(losses, others, strict=True)]
    assert found.keys() == gradients.keys()
    differences += [float((found[key] - each).norm() / each.norm()) for key, each in gradients.items()]
    typer.echo(f"{name}, {arch}: losses and {len(gradients)} gradients differ by at most {max(differences):.1e}")
    return max(differences)


def adapted(arch: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    from ft.testing import tiny_model

    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(tiny_model(arch), lora).train()


def steps(model: Any) -> tuple[list[float], dict[str, Any]]:
    import torch

    from ft.training import Engine, pack

    draw, engine, losses = torch.Generator().manual_seed(0), Engine(model, "packed"), []
    for lengths in BATCHES:
        ids = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in lengths]
        batch = pack([{"input_ids": each, "labels": each} for each in ids])
        loss = engine.cross_entropy(batch, len(batch["targets"]))
        loss.backward()
        losses.append(loss.item())
    return losses, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def complete_interpreter() -> None:
    """The interpreter of Triton 3.9 takes no float as an argument and has none of libdevice's functions."""
    own = interpreter._implicit_cvt

    def converted(value: Any) -> Any:
        if not isinstance(value, float):
            return own(value)
        return tl.tensor(interpreter.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = converted
    for module in (libdevice, of_cuda):
        module.rsqrt, module.tanh = rsqrt, tanh


@triton.jit
def rsqrt(x):
    return tl.math.rsqrt(x)


@triton.jit
def tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


if __name__ == "__main__":
    typer.run(main)
