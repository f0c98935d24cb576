"""What the keys of generation mean to a stage: how long answers are, how they are drawn, and which keys do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ft.data import answer_room
from ft.errors import refusals
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Plan, Run

POLICY_ITSELF: Final[Mapping[str, Any]] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""How a rollout draws unless the keys are set: the losses compare the probabilities that answers were drawn from."""


def room_problems(plan: Plan) -> Iterator[Problem]:
    """Answers that are to be so long that ``cutoff_len`` holds no prompt beside them."""
    yield from refusals(lambda: answer_room(plan), "max_new_tokens", "cutoff_len")


def unheeded_problems(plan: Plan, unheeded: Mapping[str, tuple[tuple[Any, ...], str]]) -> Iterator[Problem]:
    """Keys that the stage does not heed: the values that ask for nothing, and why any other is refused."""
    for key, (harmless, why) in unheeded.items():
        if plan.get(key, harmless[0]) not in harmless:
            yield Problem(
                f"{key}: {plan.get(key)} cannot be used with {plan.get('stage')}", why, f"take {key} out", (key,)
            )


def choice_problems(plan: Plan, why: str) -> Iterator[Problem]:
    """What is best cannot be told by the loss where rewards are learned from."""
    plateau = plan.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    chooses = plan.get("load_best_model_at_end") or plan.get("save_strategy") == "best"
    if (chooses or plateau) and (plan.get("metric_for_best_model") or "loss") in ("loss", "eval_loss"):
        yield Problem(
            "what is best cannot be told by the loss",
            why=why,
            remedy="set metric_for_best_model: reward and greater_is_better: true"
            + (", and lr_scheduler_kwargs: {mode: max}" if plateau else ""),
            keys=("metric_for_best_model", "load_best_model_at_end", "save_strategy", "lr_scheduler_type"),
        )


def answer_settings(run: Run) -> dict[str, Any]:
    """Generation settings with answers as long as prompts were prepared for, unless ``max_length`` limits both."""
    from ft.training import generation_settings

    settings = generation_settings(run.plan)
    return settings if "max_length" in settings else {**settings, "max_new_tokens": answer_room(run.plan)}


def rollout_settings(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings of a rollout: draws from the policy itself wherever nothing else was asked for."""
    if not settings["do_sample"]:
        run.decide("rollouts take the most likely tokens (do_sample: false), so that the policy does not explore")
        return dict(settings)
    chosen = {**settings, **{key: value for key, value in POLICY_ITSELF.items() if not run.plan.is_set(key)}}
    run.decide("rollouts draw with " + ", ".join(f"{key} {chosen[key]:g}" for key in POLICY_ITSELF))
    return chosen


def greedy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, but the likeliest token each time."""
    return {key: value for key, value in settings.items() if key not in POLICY_ITSELF} | {"do_sample": False}
