"""Liger's Triton kernels for RMSNorm, rotary embeddings and SwiGLU (Hsu et al. 2024, arXiv:2410.10989).

Its loss stays off: the engine's own never holds the logits either, and is exact. The kernels are put in by the function
that liger-kernel has for the architecture, which also replaces the rotary function in transformers' module of it.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft.devices import on_gpu, sharding_problems
from ft.errors import ConfigError, did_you_mean
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import nn

    from ft_hookspecs import Plan, Run

PACKAGE: Final = "pip install 'ft-framework[liger]'"
LOSSES: Final = {"cross_entropy": False, "fused_linear_cross_entropy": False}


class LigerOptions(PluginOptions):
    """Which kernels."""

    liger_kernel_config: dict[str, bool] | None = Field(
        default=None,
        description="Kernels of Liger to leave out or put in by name (`rope`, `rms_norm`, `swiglu`, `geglu` …). "
        "Unset: all that the architecture has; its losses are always off.",
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return LigerOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Triton needs a GPU; the loss is the engine's."""
    key = "enable_liger_kernel"
    yield from _checks.needs_gpu(
        plan, "liger", "its kernels are written in Triton, which compiles for GPUs", key, "false"
    )
    if on_gpu(plan) and find_spec("liger_kernel") is None:
        yield Problem("liger-kernel is not installed", remedy=PACKAGE, keys=(key,), exit_code=5)
    for name in LOSSES.keys() & {name for name, on in (plan.of(LigerOptions).liger_kernel_config or {}).items() if on}:
        yield Problem(
            f"liger_kernel_config: {name} cannot be on",
            why="the loss is the engine's, at labels only; Liger's would compute another one beside it",
            remedy=f"take {name} out",
            keys=("liger_kernel_config",),
        )
    both = "both replace the norms and MLPs of each layer"
    yield from _checks.apart(plan, "liger", {"unsloth": both}, (key,))
    why = "its kernels read whole weights, and were not proved on shards"
    yield from sharding_problems(plan, "liger", why, "or leave liger out")


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Bind Liger's kernels to the modules of this model.

    Raises:
        ConfigError: Liger does not know the architecture, or not the kernel that was asked for.
    """
    from ft.training import unwrap

    base: Any = unwrap(model)
    modules = dict(base.named_modules())
    own = {name: vars(module).get("forward") for name, module in modules.items()}
    apply = _function(base.config.model_type)
    apply(model=base, **_switches(run.plan, apply))
    changed = frozenset(name for name, module in modules.items() if vars(module).get("forward") is not own[name])
    if not changed:
        raise ConfigError(
            f"liger changed nothing in this {base.config.model_type}", remedy="set enable_liger_kernel: false"
        )
    return Change(model, f"Liger's kernels in {len(changed)} modules, its loss off", changed)


def _function(architecture: str) -> Callable[..., None]:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KNOWN

    if architecture not in KNOWN:
        raise ConfigError(
            f"Liger has no kernels for the architecture {architecture}",
            why=f"it knows {', '.join(sorted(KNOWN))}",
            remedy="set enable_liger_kernel: false",
        )
    return KNOWN[architecture]  # type: ignore[no-any-return]  # liger ships no types


def _switches(plan: Plan, apply: Callable[..., None]) -> Mapping[str, bool]:
    """What the function takes: the user's switches, and its losses off."""
    known = signature(apply).parameters.keys() - {"model"}
    wanted = plan.of(LigerOptions).liger_kernel_config or {}
    if unknown := sorted(wanted.keys() - known - LOSSES.keys()):
        raise ConfigError(
            f"liger_kernel_config: Liger has no {', '.join(unknown)} for this architecture",
            where=str(plan.sources.get("liger_kernel_config", "")),
            why=f"there are {', '.join(sorted(known - LOSSES.keys()))}",
            remedy=did_you_mean(unknown[0], known) or "name one of them",
        )
    return {name: on for name, on in {**wanted, **LOSSES}.items() if name in known}
