"""FlashAttention over whole packed rows (Dao 2023, arXiv:2307.08691), or cuDNN's attention: demanded, not preferred.

Without this plugin the engine takes the best kernel it finds and goes on without one. With it the run says which kernel
computes, and stops where none can: on a CPU, in fp32, for a model that cannot be trained packed.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, Final, Literal

from packaging.version import Version
from pydantic import Field

from ft.devices import devices, on_gpu, torch_build
from ft.errors import ConfigError
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.accelerators import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft.training import Kernel
    from ft_hookspecs import Plan, Run

PACKAGE: Final = "pip install 'ft-framework[flash-attn]' --no-build-isolation"
CAPABILITY: Final = {"fa2": (8, 0), "torch": (8, 0), "cudnn": (9, 0)}
"""What a device must be able to do: Ampere for FlashAttention 2, Hopper for what cuDNN does better."""
NAMES: Final = {
    "fa2": "flash-attn",
    "torch": "the FlashAttention of PyTorch (varlen_attn)",
    "cudnn": "cuDNN, a sequence at a time",
}
OLDEST_TORCH: Final = Version("2.11")
LARGEST_HEAD: Final = {"fa2": 256, "torch": 256, "cudnn": 128}


class FlashAttentionOptions(PluginOptions):
    """Which kernel attends."""

    flash_attn_kernel: Literal["auto", "fa2", "torch", "cudnn"] = Field(
        default="auto",
        description="`fa2` is the package, `torch` the kernel inside PyTorch, `cudnn` is for long sequences on "
        "Hopper. `auto` takes the package when it is installed, else PyTorch's.",
    )


def kernel_of(plan: Plan) -> Kernel:
    """The kernel that the run will use."""
    asked = plan.of(FlashAttentionOptions).flash_attn_kernel
    if asked != "auto":
        return asked
    return "fa2" if has_package() else "torch"


def has_package() -> bool:
    """Whether flash-attn 2 is installed; version 4 is another distribution in a module of the same name."""
    try:
        distribution("flash-attn")
    except PackageNotFoundError:
        return False
    return True


@hookimpl
def ft_options() -> type[PluginOptions]:
    return FlashAttentionOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Kernels for half precision on a GPU, in packed batches."""
    kernel = kernel_of(plan)
    why = "FlashAttention and cuDNN are CUDA kernels; on a CPU packed batches already attend by PyTorch's SDPA"
    yield from _checks.needs_gpu(plan, NAMES[kernel], why, "flash_attn", "auto")
    if on_gpu(plan):
        yield from _machine_problems(kernel)
    if plan.get("attention") == "padded":
        yield Problem(
            "flash_attn contradicts attention: padded",
            why="the kernels attend within the sequences of packed rows, and take no padding",
            remedy="set attention: auto, or flash_attn: auto",
            keys=("flash_attn", "attention"),
        )
    if (asked := plan.get("flash_attn")) in ("disabled", "sdpa"):
        yield Problem(
            f"the plugin flash_attn contradicts flash_attn: {asked}",
            why=f"{asked} asks for another kernel",
            remedy="set flash_attn: fa2, or leave flash_attn out of the plugins",
            keys=("flash_attn",),
        )
    if (stage := plan.get("stage")) in ("grpo", "rloo"):
        yield Problem(
            f"flash_attn cannot be combined with stage: {stage}",
            why="TRL's trainer pads its batches",
            remedy="set flash_attn: auto",
            keys=("flash_attn", "stage"),
        )
    yield from _precision_problems(plan)


def _machine_problems(kernel: str) -> Iterable[Problem]:
    for gpu in devices().gpus:
        if gpu.capability < CAPABILITY[kernel]:
            needed, has = (".".join(map(str, each)) for each in (CAPABILITY[kernel], gpu.capability))
            yield Problem(
                f"{NAMES[kernel]} does not run on {gpu.name}",
                why=f"it needs compute capability {needed}, the device has {has}",
                remedy="set flash_attn: auto" + (", or flash_attn_kernel: torch" if kernel == "cudnn" else ""),
                keys=("flash_attn_kernel", "flash_attn"),
                exit_code=5,
            )
    if kernel == "fa2" and not has_package():
        yield Problem("flash-attn is not installed", remedy=PACKAGE, keys=("flash_attn_kernel",), exit_code=5)
    if kernel == "torch" and (build := torch_build()) and Version(build.version) < OLDEST_TORCH:
        yield Problem(
            f"{NAMES[kernel]} cannot be used with torch {build.version}",
            why=f"before {OLDEST_TORCH} it takes neither a scale nor a window",
            remedy=f"pip install 'torch>={OLDEST_TORCH}', or set flash_attn: auto",
            keys=("flash_attn_kernel", "flash_attn"),
            exit_code=5,
        )


def _precision_problems(plan: Plan) -> Iterable[Problem]:
    from ft.precision import dtype_name, uses_autocast

    whole = (adapter := plan.plugin("adapters")) is not None and adapter.name in ("full", "freeze")
    if dtype_name(plan, trains_everything=whole) == "float32" and not uses_autocast(plan):
        yield Problem(
            "flash_attn cannot compute in fp32",
            why="its kernels are for half precision, and this run is in fp32",
            remedy="set bf16: true, or flash_attn: auto",
            keys=("dtype", "flash_attn"),
        )


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Name the kernel for the model's attention; no module is replaced, so none is claimed.

    Raises:
        ConfigError: the model cannot be trained packed, or has heads that the kernel does not take.
    """
    from ft.training import obstacles, unwrap, use_attention_kernel

    kernel = kernel_of(run.plan)
    reasons = [*obstacles(model), *_misfit(unwrap(model), kernel)]
    if reasons:
        raise ConfigError(
            f"{NAMES[kernel]} cannot serve this model",
            where=str(run.plan.sources.get("flash_attn", "")),
            why="; ".join(reasons),
            remedy="set flash_attn: auto",
        )
    use_attention_kernel(model, kernel)
    return Change(model, f"attention by {NAMES[kernel]}", details={"kernel": kernel})


def _misfit(base: Any, kernel: Kernel) -> Iterable[str]:
    config = base.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size > LARGEST_HEAD[kernel] or size % 8:
        yield f"its heads are of size {size}, and the kernel takes multiples of 8 up to {LARGEST_HEAD[kernel]}"
    if kernel == "torch" and (dropout := getattr(config, "attention_dropout", 0)):
        yield f"attention_dropout is {dropout}, and the kernel has no dropout"
