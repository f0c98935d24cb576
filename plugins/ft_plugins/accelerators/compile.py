"""``torch.compile`` of the parts of each layer: attention, MLP and norms.

Part by part, because all layers then share a few graphs (a minute instead of many), and gradient checkpointing, which
wraps the layer, stays outside. Lengths are symbols from the first batch on, so another batch compiles nothing. What
runs without gradients (evaluation, generation, the self-check) is not compiled: its shapes change with every token.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Final

from ft.devices import sharding_problems
from ft.errors import ConfigError
from ft_hookspecs import Change, Problem, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn
    from transformers import TrainerCallback

    from ft_hookspecs import Plan, Run

INDUCTOR: Final = "inductor"
COMPILERS: Final = ("g++", "clang++", "c++")
DRAWN: Final = ("grpo", "rloo")


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """A compiler must be there, and shapes must be those of packed or padded batches."""
    backend, mode = plan.get("torch_compile_backend") or INDUCTOR, plan.get("torch_compile_mode")
    if backend == INDUCTOR and not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        yield Problem(
            "torch_compile needs a C++ compiler",
            why=f"inductor writes C++ and compiles it; none of {', '.join(COMPILERS)} is on the path",
            remedy="install g++, set CXX to a compiler, or take torch_compile out",
            keys=("torch_compile", "torch_compile_backend"),
            exit_code=5,
        )
    if plan.get("torch_compile") is False and plan.is_set("torch_compile"):
        yield Problem("the plugin compile is selected and torch_compile is false", remedy="keep one", keys=("plugins",))
    if mode in ("reduce-overhead", "max-autotune"):
        yield Problem(
            f"torch_compile_mode: {mode} cannot be used",
            why="it records CUDA graphs, one for every length of a batch",
            remedy="set max-autotune-no-cudagraphs, or leave torch_compile_mode out",
            keys=("torch_compile_mode",),
        )
    if (stage := plan.get("stage")) in DRAWN:
        yield Problem(
            f"torch_compile cannot be combined with stage: {stage}",
            why="its batches are not those of ft's trainer, and compiling them again was not shown to gain",
            remedy="take torch_compile out",
            keys=("torch_compile", "stage"),
        )
    fuses = "the compiler fuses the same operations itself, and foreign kernels cut its graphs"
    yield from _checks.apart(plan, "torch_compile", {"liger": fuses, "unsloth": fuses}, ("torch_compile",))
    why = "sharded weights are gathered by hooks that would have to be traced"
    yield from sharding_problems(plan, "torch_compile", why, "or leave torch_compile out")


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Compile the parts of each layer on their first call in training.

    Raises:
        ConfigError: no layers are found, or the backend or mode does not exist.
    """
    backend, mode = (run.plan.get(f"torch_compile_{key}") for key in ("backend", "mode"))
    try:
        compiled = compile_layers(model, backend or INDUCTOR, mode)
    except (RuntimeError, ValueError, ImportError) as error:
        raise ConfigError(
            "torch.compile refuses the backend or mode",
            where=str(run.plan.sources.get("torch_compile_backend" if backend else "torch_compile_mode", "")),
            why=str(error),
            remedy="see torch.compiler.list_backends()",
        ) from error
    if not compiled:
        raise ConfigError(
            f"torch_compile finds no layers in {type(model).__name__}",
            why="it compiles the parts of what transformers marks as a layer",
            remedy="take torch_compile out",
        )
    return Change(model, f"{len(compiled)} parts of layers compile on their first call in training", compiled)


def compile_layers(model: nn.Module, backend: str, mode: str | None) -> frozenset[str]:
    """Compile each part of each layer; the names of the parts."""
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    from ft.training import unwrap

    layers = [each for each in unwrap(model).named_modules() if isinstance(each[1], GradientCheckpointingLayer)]
    parts = {f"{name}.{part}": module for name, layer in layers for part, module in layer.named_children()}
    for module in parts.values():
        compiled = torch.compile(module.forward, dynamic=True, backend=backend, mode=mode)
        module.forward = _in_training(module.forward, compiled)  # parameters keep their names, hooks run as ever
    return frozenset(parts)


def _in_training(own: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else own)(*args, **kwargs)

    return forward


@hookimpl
def ft_callbacks(run: Run) -> Iterable[TrainerCallback]:
    """Keeps compiling out of the tokens per second, and says what it took."""
    from ft_plugins.accelerators._layers.compiling import CompileReport

    yield CompileReport(run)
