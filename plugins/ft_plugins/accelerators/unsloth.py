"""Unsloth's kernels for LoRA: the MLP with its three adapters as one function, single projections, RMSNorm.

Only its kernels. ``FastLanguageModel`` would replace the model's whole forward, attention and loss by Unsloth's own,
which know neither packed rows as ft makes them nor logits at labels only, and would rewrite transformers' trainer.
Bound to the modules of ft's model, the kernels leave attention, loss, trainer and files as they are.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from ft.devices import on_gpu, sharding_problems
from ft.errors import ConfigError
from ft_hookspecs import Change, Problem, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft_hookspecs import Plan

PACKAGE: Final = "pip install 'ft-framework[unsloth]'"
ARCHITECTURES: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose norms and MLPs are Llama's: root mean square without an offset, SwiGLU."""


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Kernels for plain LoRA, on plain or bitsandbytes 4-bit weights, on a GPU."""
    key = "use_unsloth"
    yield from _checks.needs_gpu(
        plan, "unsloth", "its kernels are written in Triton, which compiles for GPUs", key, "false"
    )
    if on_gpu(plan) and find_spec("unsloth") is None:
        yield Problem("unsloth is not installed", remedy=PACKAGE, keys=(key,), exit_code=5)
    yield from _checks.lora_only(plan, "unsloth", why="its kernels are for LoRA layers")
    yield from _checks.quantised(plan, "unsloth", why="its kernels read plain and bitsandbytes weights", allowed="bnb")
    if plan.has("quantizers", "bnb") and (bits := plan.get("quantization_bit")) not in (None, 4):
        yield Problem(
            f"unsloth cannot be combined with quantization_bit: {bits}",
            why="of bitsandbytes' formats its kernels read the 4-bit one",
            remedy="set quantization_bit: 4, or use_unsloth: false",
            keys=("quantization_bit", key),
        )
    if (stage := plan.get("stage")) in ("grpo", "rloo"):
        yield Problem(
            f"unsloth cannot be combined with stage: {stage}",
            why="importing it rewrites TRL's trainers, which this stage is made of",
            remedy="set use_unsloth: false",
            keys=(key, "stage"),
        )
    yield from sharding_problems(plan, "unsloth", "its kernels read whole weights", "or leave unsloth out")


@hookimpl
def ft_accelerate_model(model: nn.Module) -> Change:
    """Bind the kernels to the norms, MLPs and LoRA projections of this model.

    Raises:
        ConfigError: an architecture whose norms or MLPs the kernels do not compute, or no LoRA layer.
    """
    from ft.training import unwrap

    architecture = unwrap(model).config.model_type  # type: ignore[union-attr]  # a PreTrainedModel
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"unsloth's kernels are not for the architecture {architecture}",
            why=f"they compute what {', '.join(ARCHITECTURES)} do",
            remedy="set use_unsloth: false",
        )
    from ft_plugins.accelerators._layers.unsloth import bind  # importing unsloth patches libraries: not before it acts

    bound = bind(unwrap(model))
    if not any(kind == "LoRA" for kind in bound.values()):
        raise ConfigError("unsloth finds no plain LoRA layer", remedy="set use_unsloth: false")
    counts = {kind: list(bound.values()).count(kind) for kind in sorted(set(bound.values()))}
    words = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return Change(model, f"Unsloth's kernels: {words}", frozenset(bound))
