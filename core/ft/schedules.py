"""What the schedules of the learning rate need and heed, checked while planning.

transformers says some of it once the model is loaded, and passes over the rest without a word.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ft.errors import did_you_mean
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Plan

_COSINE: Final = frozenset({"num_cycles"})
_MIN: Final = frozenset({"min_lr", "min_lr_rate"})
HEEDED: Final[Mapping[str, frozenset[str]]] = {
    "linear": frozenset(),
    "cosine": _COSINE,
    "cosine_with_restarts": _COSINE,
    "polynomial": frozenset({"lr_end", "power"}),
    "constant": frozenset(),
    "constant_with_warmup": frozenset(),
    "inverse_sqrt": frozenset({"timescale"}),
    "reduce_lr_on_plateau": frozenset({"mode", "factor", "patience", "threshold", "threshold_mode", "cooldown",
                                       "min_lr", "eps"}),
    "cosine_with_min_lr": _COSINE | _MIN,
    "cosine_warmup_with_min_lr": _COSINE | _MIN | {"warmup_lr_rate"},
    "warmup_stable_decay": _COSINE | {"num_decay_steps", "num_stable_steps", "warmup_type", "decay_type",
                                      "min_lr_ratio"},
}  # fmt: skip
"""The keys of ``lr_scheduler_kwargs`` that each schedule takes; one that is not here is not checked."""

WITHOUT_WARMUP: Final = {"constant": "constant_with_warmup", "reduce_lr_on_plateau": "another"}
"""Schedules that pass over ``warmup_steps``, and which one does not."""


def schedule_problems(plan: Plan) -> Iterator[Problem]:
    """What ``lr_scheduler_type``, its keyword arguments and the warm-up cannot be together."""
    name = plan.get("lr_scheduler_type", "linear")
    words = _words(plan.get("lr_scheduler_kwargs"))
    if words is None:
        yield _problem("lr_scheduler_kwargs is no mapping", "it holds named values", "write {name: value}")
        return
    heeded = HEEDED.get(name, frozenset(words))
    for word in sorted(words.keys() - heeded):
        known = ", ".join(sorted(heeded)) or "nothing"
        yield _problem(
            f"lr_scheduler_type {name} does not take {word}",
            f"its lr_scheduler_kwargs may hold {known}",
            did_you_mean(word, heeded) or f"take {word} out",
        )
    yield from _missing(name, words, plan)
    if name in WITHOUT_WARMUP and plan.get("warmup_steps"):
        yield Problem(
            f"warmup_steps does nothing with lr_scheduler_type {name}",
            why="this schedule begins at the full learning rate",
            remedy=f"take warmup_steps out, or choose {WITHOUT_WARMUP[name]} schedule",
            keys=("warmup_steps", "lr_scheduler_type"),
        )


def _missing(name: str, words: Mapping[str, Any], plan: Plan) -> Iterator[Problem]:
    """What a schedule cannot do without."""
    if name == "warmup_stable_decay" and "num_decay_steps" not in words:
        yield _problem(
            "lr_scheduler_type warmup_stable_decay needs num_decay_steps",
            "the steps at the end in which the learning rate falls",
            "set lr_scheduler_kwargs: {num_decay_steps: 100}",
        )
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr") and len(words.keys() & _MIN) != 1:
        yield _problem(
            f"lr_scheduler_type {name} needs min_lr or min_lr_rate, one of them",
            "the learning rate at the end, or its share of learning_rate",
            "set lr_scheduler_kwargs: {min_lr_rate: 0.1}",
        )
    lowest, highest = words.get("lr_end", 1e-7), plan.get("learning_rate", 5e-5)
    if name == "polynomial" and lowest >= highest:
        yield _problem(
            f"lr_scheduler_type polynomial falls from learning_rate {highest:g} to lr_end {lowest:g}",
            "the end must be the lower one",
            "set lr_scheduler_kwargs: {lr_end: …}",
        )
    if name == "reduce_lr_on_plateau" and plan.get("eval_strategy", "no") == "no":
        yield _problem(
            "lr_scheduler_type reduce_lr_on_plateau needs evaluations while training",
            "it lowers the learning rate when they no longer improve",
            "set eval_strategy: steps or epoch",
        )


def _words(given: object) -> Mapping[str, Any] | None:
    """The keyword arguments, which may be JSON text; ``None`` when they are neither."""
    try:
        words = json.loads(given) if isinstance(given, str) else given or {}
    except ValueError:
        return None
    return words if isinstance(words, dict) else None


def _problem(what: str, why: str, remedy: str) -> Problem:
    return Problem(what, why=why, remedy=remedy, keys=("lr_scheduler_kwargs", "lr_scheduler_type"))
