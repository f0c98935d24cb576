"""The keys that dpo and kto share, and what is wrong with the reference that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ft.devices import sharding_problems
from ft.options import ReferenceOptions
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import Plan


class PreferenceOptions(ReferenceOptions):
    """How far the policy may go from its reference, and what else is learned from the preferred answers."""

    pref_beta: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="β: the larger, the closer the policy stays to its reference."
    )
    pref_ftx: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of an additional loss: the NLL per token of each chosen (desirable) answer.",
    )


def start_problems(plan: Plan, stage: str) -> Iterator[Problem]:
    """FSDP gives the model other parameters than those whose start values are kept: the reference would learn too."""
    if not plan.get("ref_model"):
        why = "the model as it is before its first step is kept beside the weights that train, which fsdp replaces"
        yield from sharding_problems(plan, stage, why, "or give ref_model", ("ref_model",), ("fsdp",))


def reference_problems(plan: Plan) -> Iterator[Problem]:
    """A second copy of the model that would be the reference anyway; with fsdp only a copy can be it."""
    reference, model = plan.get("ref_model"), plan.get("model_name_or_path")
    differs = plan.get("adapter_name_or_path") or any(
        plan.get(key) for key in ("ref_model_adapters", "ref_model_quantization_bit")
    )
    if reference and not differs and not plan.get("fsdp") and Path(reference).resolve() == Path(model).resolve():
        yield Problem(
            "ref_model is the model that trains",
            why="the model as it is before its first step is the reference anyway; a copy would only take memory",
            remedy="leave ref_model out",
            keys=("ref_model",),
        )
