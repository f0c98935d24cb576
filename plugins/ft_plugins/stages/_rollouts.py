"""How the stages that learn from rewards draw answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ft_hookspecs import Run

POLICY_ITSELF: Final[Mapping[str, Any]] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""How a rollout draws unless the keys are set: the losses compare the probabilities that answers were drawn from."""


def rollout_settings(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings of a rollout: draws from the policy itself wherever nothing else was asked for."""
    if not settings["do_sample"]:
        run.decide("rollouts take the likeliest tokens (do_sample: false): the policy explores nothing")
        return dict(settings)
    chosen = {**settings, **{key: value for key, value in POLICY_ITSELF.items() if not run.plan.is_set(key)}}
    run.decide("rollouts draw with " + ", ".join(f"{key} {chosen[key]:g}" for key in POLICY_ITSELF))
    return chosen


def greedy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, but the likeliest token each time."""
    return {key: value for key, value in settings.items() if key not in POLICY_ITSELF} | {"do_sample": False}
