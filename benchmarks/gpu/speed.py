"""Speed and peak memory of a step on random weights made on the device, beside the GEMM ceiling of the same run.

Floating-point operations are counted for real tokens only, without what checkpointing computes again:
linear layers 2 P T, head 2 h V L, attention 4 heads d s (s + 1) / 2 a sequence and layer; full fine-tuning takes three
times all of it; an adapter leaves out the gradient of frozen weights (linear and head twice), but not of attention.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from check import Check, Place
from torch import nn

from ft.training import Engine, pack, unwrap, use_attention_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WARM_UP, TIMED = 5, 20
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""bf16 operations a second by NVIDIA's data sheets, dense; MFU is a share of it, and not given for other devices."""
PROMPT = 0.3
"""The share of each sequence that is no label."""


@dataclass(frozen=True)
class Shape:
    """A configuration of transformers, and how long the sequences of a step are."""

    architecture: str
    config: Mapping[str, Any]
    lengths: tuple[int, ...]
    gigabytes: float
    """What full fine-tuning needs."""


SHAPES = {
    "Qwen2.5-0.5B": Shape(
        "qwen2",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        (512, 1024, 2048, 700, 300, 1500, 2108) * 2,
        gigabytes=40,
    ),
    "Llama-3.1-8B": Shape(
        "llama",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 128256,
        },
        (512, 1024, 1500, 700, 360),
        gigabytes=90,
    ),
}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 128, "vocab_size": 384}
ACCELERATORS = {"liger": ("liger_kernel",), "unsloth": ("unsloth",), "fused_lora": (), "cudnn": (), "compile": ()}


METHODS = {"lora": (), "qlora": ("bitsandbytes",), "full": ()}


def checks() -> Iterable[Check]:
    """Each shape: LoRA, QLoRA and full fine-tuning plain, and then LoRA with each accelerator."""
    yield Check("GEMM ceiling", gemm, alone=True)
    for name, shape in SHAPES.items():
        for method, needs in METHODS.items():
            run, least = partial(speed, name, method, None), shape.gigabytes if method == "full" else 0
            yield Check(f"{name} {method}", run, needs, seconds=90, alone=True, gigabytes=least)
    for accelerator, needs in ACCELERATORS.items():
        gpu_only = accelerator in ("liger", "unsloth")
        for name in SHAPES:
            run = partial(speed, name, "lora", accelerator)
            yield Check(f"{name} lora {accelerator}", run, needs, 150, gpu_only, alone=True, late=True)


def gemm(place: Place) -> Mapping[str, Any]:
    """The rate of large bf16 products of random numbers, which no step can exceed."""
    return {"TFLOP/s": round(ceiling(place) / 1e12, 1)}


def ceiling(place: Place, size: int = 8192) -> float:
    size = 128 if place.tiny else size
    a, b = (torch.randn(size, size, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / statistics.median(timed(lambda: a @ b, place, warm_up=3, repeats=10))


def timed(step: Any, place: Place, warm_up: int, repeats: int) -> list[float]:
    """Seconds of each repetition, by events of the device: the host is never waited for in between, as in training."""
    for _ in range(warm_up):
        step()
    if place.device == "cpu":
        return [clocked(step) for _ in range(repeats)]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()  # what making the model took is not the step's
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


def clocked(step: Any) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def speed(shape: str, method: str, accelerator: str | None, place: Place) -> Mapping[str, Any]:
    """Label tokens and real tokens a second, memory, and shares of peak and ceiling."""
    model = made(SHAPES[shape], method, place)
    if accelerator is not None:
        accelerate(model, accelerator, place)
    batches = [batch(SHAPES[shape], place, seed) for seed in range(4)]
    lengths, labels = sequences(SHAPES[shape], place), len(batches[0]["targets"])
    engine = Engine(model, "packed")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    losses: list[torch.Tensor] = []

    def step() -> None:
        loss = engine.cross_entropy(batches[len(losses) % 4], labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    seconds = statistics.median(timed(step, place, 1 if place.tiny else WARM_UP, 2 if place.tiny else TIMED))
    allocated = torch.cuda.max_memory_allocated() if place.device == "cuda" else 0
    assert torch.stack(losses).isfinite().all(), "a loss is not finite"
    rate = operations(model, lengths, labels, method) / seconds
    return {
        "label tokens/s": round(labels / seconds),
        "real tokens/s": round(sum(lengths) / seconds),
        **utilization(rate, place),
        "of GEMM ceiling": f"{rate / ceiling(place):.1%}",
        "peak GiB": round(allocated / 2**30, 2),
        "ms": round(1000 * seconds, 1),
        "loss": round(losses[0].item(), 4),
    }


def utilization(rate: float, place: Place) -> dict[str, str]:
    """MFU, where the device's data sheet is known."""
    name = torch.cuda.get_device_name() if place.device == "cuda" else ""
    return next(({"MFU": f"{rate / most:.1%}"} for known, most in PEAKS.items() if known in name), {})


def made(shape: Shape, method: str, place: Place) -> nn.Module:
    """Random weights in bf16, on the device from the start; adapters train in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**shape.config, **(TINY if place.tiny else {})}
    config = AutoConfig.for_model(shape.architecture, max_position_embeddings=8192, **sizes)
    torch.manual_seed(0)
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.config.use_cache = False
    if method == "full":
        return model.train()
    if method == "qlora":
        quantise(model)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora).train()


def quantise(model: nn.Module) -> None:
    """Every linear layer but the head in nf4 with double quantisation, one after the other where it lies."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and "lm_head" not in name]
    for name in names:
        layer = model.get_submodule(name)
        sizes, weight = (layer.in_features, layer.out_features), layer.weight.data
        new = Linear4bit(*sizes, layer.bias is not None, torch.bfloat16, quant_type="nf4", device="meta")
        new.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=new).to(weight.device)
        new.bias = layer.bias
        model.set_submodule(name, new)


def accelerate(model: nn.Module, name: str, place: Place) -> None:
    """What the plugin does, with its defaults."""
    from types import SimpleNamespace

    if name == "cudnn":
        use_attention_kernel(model, "cudnn")
    elif name == "compile":
        from ft_plugins.accelerators.compile import compile_layers

        compile_layers(model, "aot_eager" if place.tiny else "inductor", None)
    elif name == "liger":
        from ft_plugins.accelerators import liger

        plan = SimpleNamespace(of=lambda _: liger.LigerOptions(), sources={})
        liger.ft_accelerate_model(SimpleNamespace(plan=plan), model)
    elif name == "unsloth":
        from ft_plugins.accelerators import unsloth

        unsloth.ft_accelerate_model(model)
    else:
        from ft_plugins.accelerators import fused_lora

        fused_lora.ft_accelerate_model(model)


def sequences(shape: Shape, place: Place) -> list[int]:
    return [max(4, length // 100) for length in shape.lengths] if place.tiny else list(shape.lengths)


def batch(shape: Shape, place: Place, seed: int) -> Any:
    """One packed row of random tokens; every batch has other tokens and the same lengths, in another order."""
    draw = torch.Generator().manual_seed(seed)
    size = (TINY if place.tiny else shape.config)["vocab_size"]
    lengths = sequences(shape, place)
    rows = []
    for index in torch.randperm(len(lengths), generator=draw).tolist():
        ids = torch.randint(4, size, (lengths[index],), generator=draw).tolist()
        prompt = int(PROMPT * len(ids))
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return {name: each.to(place.device) if hasattr(each, "to") else each for name, each in pack(rows).items()}


def operations(model: nn.Module, lengths: list[int], labels: int, method: str) -> float:
    """Floating-point operations of one step."""
    base: Any = unwrap(model)
    config, tokens = base.config, sum(lengths)
    head = base.get_output_embeddings()
    adapters = sum(each.numel() for name, each in model.named_parameters() if "lora_" in name)
    linear = 0
    for name, module in base.named_modules():
        if (
            hasattr(module, "in_features")
            and module is not head
            and "lora_" not in name
            and not hasattr(module, "base_layer")
        ):
            linear += module.in_features * module.out_features
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    attention = 4 * config.num_attention_heads * size * pairs * config.num_hidden_layers
    linear, head_cost = 2 * linear * tokens, 2 * config.hidden_size * config.vocab_size * labels
    if method == "full":
        return 3 * (linear + head_cost + attention)
    return 2 * linear + 3 * 2 * adapters * tokens + 2 * head_cost + 3 * attention
