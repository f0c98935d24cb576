"""What stages add to a run's memory beyond one model and one pass over its samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ft.data import answer_room

if TYPE_CHECKING:
    from ft_hookspecs import Estimate, Plan

KEPT_START = "reference (start values)"


def pairs(plan: Plan, estimate: Estimate, *, reference: bool) -> Estimate:
    """Two answers to each prompt; without ``ref_model`` the reference keeps the start values of what trains."""
    tokens = estimate.tokens if estimate.measured else 2 * estimate.tokens
    return replace(estimate, tokens=tokens, held={**estimate.held, **(_start(plan, estimate) if reference else {})})


def mismatched(plan: Plan, estimate: Estimate) -> Estimate:
    """One answer to each prompt, and the start values; the mismatched pairs pass without gradients."""
    return replace(estimate, held={**estimate.held, **_start(plan, estimate)})


def rollouts(plan: Plan, estimate: Estimate, samples: int, *, packed: bool, reference: bool = True) -> Estimate:
    """Answers are generated with a cache: keys and values of each layer, for ``samples`` prompts with their answers.

    What was generated is then learned from, ``per_device_train_batch_size`` samples at a time.
    """
    shape, size = estimate.shape, plan.get("per_device_train_batch_size", 8)
    cache = 2 * shape.layers * shape.key_heads * shape.head_size * estimate.compute_bytes
    longest = estimate.longest + answer_room(plan) if estimate.measured else plan.get("cutoff_len", 2048)
    return replace(
        estimate,
        tokens=size * longest,
        longest=longest,
        packed=packed and estimate.packed,
        rollouts=samples * longest * cache,
        held={**estimate.held, **(_start(plan, estimate) if reference else {})},
    )


def _start(plan: Plan, estimate: Estimate) -> dict[str, float]:
    if plan.get("ref_model"):
        return {}
    return {KEPT_START: (estimate.trained or 0) * estimate.trained_bytes}
