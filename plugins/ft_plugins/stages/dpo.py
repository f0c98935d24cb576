"""Preference optimisation on pairs: DPO and its kin (hinge, IPO, paired KTO), and ORPO and SimPO without reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from ft.options import idle_generation_keys
from ft_hookspecs import PluginOptions, Problem, hookimpl
from ft_plugins.stages import _hooks, _memory
from ft_plugins.stages._preference import PreferenceOptions, reference_problems, start_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import Estimate, Note, Plan, Run

ft_api_version = 1
ft_check_examples = _hooks.check_pairs
ft_prepare_dataset = _hooks.prepare_pairs
ft_evaluate = _hooks.evaluate

Loss = Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"]


class DpoOptions(PreferenceOptions):
    """Which loss compares the two answers of a pair, and its constants."""

    pref_loss: Loss = Field("sigmoid", description="The loss; `orpo` and `simpo` need no reference.")
    dpo_label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs taken to be labelled the wrong way round, for `sigmoid`."
    )
    simpo_gamma: float = Field(0.5, ge=0, allow_inf_nan=False, description="Margin that `simpo` asks for.")
    pref_bco_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="w of (loss + w · BCO) / (1 + w), where BCO classifies answers."
    )
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="Weight of an answer's tokens beyond the length of the other one (LD-DPO)."
    )

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with a reference."""
        return self.pref_loss not in ("orpo", "simpo")

    @property
    def is_per_token(self) -> bool:
        """Whether the loss compares means over an answer's tokens, and not sums."""
        return self.pref_loss in ("ipo", "orpo", "simpo")


SUMMED: Final = ("sigmoid", "hinge", "kto_pair")
REFERENCED: Final = (*SUMMED, "ipo")
USED_BY: Final[dict[str, tuple[str, ...]]] = {
    "dpo_label_smoothing": ("sigmoid",),
    "simpo_gamma": ("simpo",),
    "pref_bco_weight": SUMMED,
    "ref_model": REFERENCED,
    "ref_model_adapters": REFERENCED,
    "ref_model_quantization_bit": REFERENCED,
}
"""Keys that only some losses heed."""


@hookimpl
def ft_options() -> type[PluginOptions]:
    return DpoOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    """Keys that the loss does not heed: a run that ignores them must not look like one that heeds them."""
    options = plan.of(DpoOptions)
    for key, losses in USED_BY.items():
        asked = plan.is_set(key) and getattr(options, key) != DpoOptions.model_fields[key].default
        if asked and options.pref_loss not in losses:
            yield Problem(
                f"{key} has no effect with pref_loss: {options.pref_loss}",
                why=f"the losses that use it: {', '.join(losses)}",
                remedy=f"leave {key} out, or set pref_loss: {losses[0]}",
                keys=(key, "pref_loss"),
            )
    if options.has_reference:
        yield from reference_problems(plan)
        if plan.get("streaming"):  # else the reference is asked before anything is sharded
            yield from start_problems(plan, "dpo on a stream")
    yield from idle_generation_keys(plan, generates=False)


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return _memory.pairs(plan, estimate, reference=plan.of(DpoOptions).has_reference)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft_plugins.stages._trainers.dpo import build_trainer

    return build_trainer(run, callbacks)
