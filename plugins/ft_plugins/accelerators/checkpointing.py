"""Gradient checkpointing: activations that are made again in the backward pass instead of being kept.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). Loss and gradients are those of a
run without it, to the bit where the kernels are deterministic; a fully checkpointed step takes another forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from ft.errors import ConfigError
from ft.estimate import describe, gigabytes, peak, room
from ft_hookspecs import Change, Checkpointing, Estimate, PluginOptions, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft.estimate import DeviceMemory
    from ft_hookspecs import Plan, Run

ft_api_version = 1

SPARING: Final[tuple[Checkpointing, ...]] = ("none", "selective", "full", "offloaded")
"""From the fastest to the smallest."""
SAID: Final = {
    "none": "activations of all layers are kept",
    "selective": "activations of every other layer are made again",
    "full": "activations of every layer are made again",
    "offloaded": "activations of every layer are made again, and their inputs lie in the host's memory",
}
PASSED_ON: Final = ("preserve_rng_state", "determinism_check")
KNOWN: Final = (*PASSED_ON, "every_n_layers", "offload", "use_reentrant")


class CheckpointingOptions(PluginOptions):
    """Which activations are made again in the backward pass."""

    gradient_checkpointing: bool | Literal["auto", "none", "selective", "full", "offloaded"] = Field(
        default="auto",
        description="Activations to make again instead of keeping them: `none` (false), those of every other layer "
        "(`selective`), of every layer (`full`, true), and with the layers' inputs in the host's memory "
        "(`offloaded`). `auto`: the least that the memory estimate asks for.",
    )
    gradient_checkpointing_kwargs: dict[str, Any] | None = Field(
        default=None,
        description="`every_n_layers`, `offload`, `preserve_rng_state` and `determinism_check`, as in transformers.",
    )
    use_unsloth_gc: bool = Field(default=False, description="The same as `gradient_checkpointing: offloaded`.")
    use_reentrant_gc: bool = Field(
        default=True, description="Without effect: checkpointing is never reentrant, with the same gradients."
    )

    @field_validator("gradient_checkpointing_kwargs")
    @classmethod
    def _known(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        if unknown := sorted(set(given or ()) - set(KNOWN)):
            raise ValueError(f"gradient_checkpointing_kwargs has no {', '.join(unknown)}; it has {', '.join(KNOWN)}")
        every = (given or {}).get("every_n_layers", 1)
        if not isinstance(every, int) or every < 1:
            raise ValueError("every_n_layers must be a whole number, at least 1")
        return given

    @property
    def mode(self) -> Checkpointing | Literal["auto"]:
        """What was asked for, by whichever of its names."""
        asked = self.gradient_checkpointing
        if self.offloads and asked in ("auto", "full", True):
            return "offloaded"
        if isinstance(asked, bool):
            return "full" if asked else "none"
        return asked

    @property
    def offloads(self) -> bool:
        """Whether one of its other names asks for ``offloaded``."""
        return self.use_unsloth_gc or bool((self.gradient_checkpointing_kwargs or {}).get("offload"))

    @property
    def every(self) -> int:
        """Of how many layers one is checkpointed."""
        given = (self.gradient_checkpointing_kwargs or {}).get("every_n_layers", 1)
        return max(int(given), 2) if self.mode == "selective" else int(given)


@hookimpl
def ft_options() -> type[PluginOptions]:
    return CheckpointingOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """What this machine or another key takes the point from."""
    options = plan.of(CheckpointingOptions)
    offload = [name for name in ("use_unsloth_gc", "gradient_checkpointing_kwargs") if plan.is_set(name)]
    if options.mode == "offloaded" and not room(plan).is_gpu:
        yield Problem(
            "activations cannot be offloaded from a CPU",
            why="they lie in the host's memory already",
            remedy="set gradient_checkpointing: full, or leave it out",
            keys=("gradient_checkpointing", *offload),
        )
    if options.offloads and options.mode != "offloaded":
        yield Problem(
            f"{offload[0]} contradicts gradient_checkpointing: {options.mode}",
            why="use_unsloth_gc, and offload, are other names of gradient_checkpointing: offloaded",
            remedy="take one of them out",
            keys=(*offload, "gradient_checkpointing"),
        )
    if options.gradient_checkpointing_kwargs and options.mode == "none":
        yield Problem(
            "gradient_checkpointing_kwargs has no effect with gradient_checkpointing: none",
            remedy="take one of them out",
            keys=("gradient_checkpointing_kwargs", "gradient_checkpointing"),
        )
    if options.mode not in ("none", "auto") and _shards(plan):
        yield Problem(
            "gradient_checkpointing and the activation_checkpointing of fsdp_config are both on",
            why="each would make the other's activations again",
            remedy="take activation_checkpointing out of fsdp_config",
            keys=("gradient_checkpointing", "fsdp_config"),
        )


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    """The mode, and for ``auto`` the first, from the fastest, whose estimate fits the device."""
    options, memory = plan.of(CheckpointingOptions), room(plan)
    if options.mode != "auto":
        return replace(estimate, checkpointing=options.mode)
    if _shards(plan):
        return replace(estimate, notes=(*estimate.notes, "checkpointing: none: fsdp_config checkpoints itself"))
    modes = SPARING if memory.is_gpu else SPARING[:-1]
    tried = [replace(estimate, checkpointing=mode) for mode in modes]
    chosen = next((each for each in tried if describe(each, memory)["warning"] is None), tried[-1])
    open_yet = "" if estimate.measured or chosen.checkpointing == "none" else ", unless the data turns out shorter"
    note = f"checkpointing: {chosen.checkpointing}{open_yet}: {_reason(estimate, memory)}"
    return replace(chosen, notes=(*estimate.notes, note))


def _reason(without: Estimate, memory: DeviceMemory) -> str:
    return f"a step without it takes about {gigabytes(peak(without))}, and {memory.name} has {gigabytes(memory.bytes)}"


def _shards(plan: Plan) -> bool:
    config = plan.get("fsdp_config")
    return isinstance(config, dict) and bool(config.get("activation_checkpointing"))


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Checkpoint the layers, in the mode that was asked for or estimated.

    Raises:
        ConfigError: the model has no layers that can be checkpointed.
    """
    from ft_plugins.accelerators._layers.recompute import checkpoint_layers, find_layers, keep_on

    options = run.plan.of(CheckpointingOptions)
    mode = options.mode if run.estimate is None else run.estimate.checkpointing
    if mode == "none" or mode == "auto":
        return Change(model, SAID["none"] if run.estimate else f"{SAID['none']}: the memory is not estimated")
    if not find_layers(model):
        raise ConfigError(
            f"{type(model).__name__} has no layers that can be checkpointed",
            where=str(run.plan.sources.get("gradient_checkpointing", "")),
            why="its layers are not built on transformers' GradientCheckpointingLayer",
            remedy="set gradient_checkpointing: false, and a smaller batch or cutoff_len",
        )
    given = options.gradient_checkpointing_kwargs or {}
    passed = {name: given[name] for name in PASSED_ON if name in given}
    every = max(options.every, 2) if mode == "selective" else options.every
    names = checkpoint_layers(model, mode, every, **passed)
    keep_on(model, lambda: checkpoint_layers(model, mode, every, **passed))
    return Change(model, f"{mode}: {SAID[mode]} ({len(names)} layers)", details={"layers": len(names)})
