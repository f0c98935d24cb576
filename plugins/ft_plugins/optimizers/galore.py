"""GaLore: AdamW or Adafactor whose state of a weight has few dimensions, found by SVD (Zhao et al., 2403.03507)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ft.devices import on_gpu
from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.optimizers import _estimate
from ft_plugins.optimizers._checks import optim_problems, whole_weights, within_backward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Estimate, Plan, Run

ft_requires: Final = dict.fromkeys(("galore_torch", "bitsandbytes"), "pip install 'ft-framework[galore]'")

EIGHT_BIT: Final = ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")
IN_8_BITS: Final = {"optim_bits": 8, "min_8bit_size": 4096, "max_unorm": 0.0, "skip_zeros": False} | {
    "percentile_clipping": 100,
    "block_wise": True,
}
"""What bitsandbytes takes for granted; the last two are for older ones. galore_torch passes it by position, where
bitsandbytes 0.50 reads a bound of each step by the norm of its weight, which is zero while it is projected."""
VARIANTS: Final = ("adamw_torch", "adafactor", *EIGHT_BIT)
"""What ``optim`` may be: it says which optimizer works in the few dimensions."""


class GaloreOptions(PluginOptions):
    """Which weights, and how few dimensions."""

    galore_target: list[str] = Field(
        default=["all"], description="Linear layers, or modules that hold some, whose gradients are projected."
    )
    galore_rank: int = Field(default=16, gt=0, description="Dimensions of a projected gradient.")
    galore_update_interval: int = Field(default=200, gt=0, description="Steps between two projections (an SVD each).")
    galore_scale: float = Field(default=2.0, gt=0, description="Factor of the learning rate of projected weights.")
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = Field(
        default="std", description="Which side of a weight is projected; `std` the larger one."
    )
    galore_layerwise: bool = Field(
        default=False, description="Step each weight within the backward pass, so that gradients take no memory."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return GaloreOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from optim_problems(plan, "galore", VARIANTS)
    yield from whole_weights(plan, "galore", "it projects the gradients of whole weight matrices")
    if plan.of(GaloreOptions).galore_layerwise:
        yield from within_backward(plan, "galore_layerwise")
    if plan.get("optim") == "adafactor" and plan.get("pure_bf16"):
        yield Problem(
            "galore with optim: adafactor and pure_bf16",
            why="galore_torch multiplies its fp32 gradients by bf16 projections, which PyTorch refuses",
            remedy="set bf16: true instead of pure_bf16, or take optim out",
            keys=("pure_bf16", "optim"),
        )
    if plan.is_set("optim") and plan.get("optim") in EIGHT_BIT and not on_gpu(plan):
        yield Problem(
            f"galore with optim: {plan.get('optim')} needs an NVIDIA GPU",
            why="galore_torch waits for CUDA after each weight",
            remedy="take optim out (AdamW in the format of the weights), or set optim: adafactor",
            keys=("optim",),
            exit_code=5,
        )


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    options = plan.of(GaloreOptions)
    moments = 0 if plan.is_set("optim") and plan.get("optim") == "adafactor" else _estimate.ADAM
    rank, side = options.galore_rank, options.galore_proj_type
    found = _estimate.projected(estimate, options.galore_target, rank, side, moments)
    return _estimate.freed(found) if options.galore_layerwise else found


@hookimpl
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer:
    from galore_torch.galore_projector import GaLoreProjector

    from ft.training import parameter_groups
    from ft_plugins.optimizers._steps.low_rank import projected_groups, resumable, step_in_backward

    options = run.plan.of(GaloreOptions)
    settings = {
        "rank": options.galore_rank,
        "update_proj_gap": options.galore_update_interval,
        "scale": options.galore_scale,
        "proj_type": options.galore_proj_type,
    }
    where = str(run.plan.sources.get("galore_target", ""))
    groups = parameter_groups(run, model)
    groups = projected_groups(groups, model, options.galore_target, settings, "galore_target", where)
    kind, arguments = _variant(run.plan)
    made = resumable(kind, lambda _, group, __: GaLoreProjector(**{name: group[name] for name in settings}))
    optimizer: Optimizer = made(groups, **arguments)
    return step_in_backward(optimizer, run) if options.galore_layerwise else optimizer


def _variant(plan: Plan) -> tuple[type[Optimizer], dict[str, Any]]:
    """The library's class for ``optim``, and its arguments."""
    from galore_torch import GaLoreAdafactor, GaLoreAdamW, GaLoreAdamW8bit

    rate = plan.get("learning_rate")
    adam = {"lr": rate, "betas": (plan.get("adam_beta1"), plan.get("adam_beta2")), "eps": plan.get("adam_epsilon")}
    match plan.get("optim") if plan.is_set("optim") else "adamw_torch":
        case "adafactor":
            return GaLoreAdafactor, {"lr": rate, "scale_parameter": False, "relative_step": False}
        case "adamw_torch":
            return GaLoreAdamW, {**adam, "no_deprecation_warning": True}
        case name:
            return GaLoreAdamW8bit, {**adam, "args": SimpleNamespace(**IN_8_BITS), "is_paged": "paged" in str(name)}
