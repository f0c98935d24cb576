"""What the schedules of the learning rate need and heed, checked while planning.

transformers says some of it once the model is loaded, and passes over the rest without a word.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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

Share = Annotated[float, Field(ge=0, le=1)]
Curve = Literal["linear", "cosine", "1-sqrt"]


class Words(BaseModel):
    """The values that ``lr_scheduler_kwargs`` may hold."""

    model_config = ConfigDict(strict=True, extra="ignore")

    num_cycles: float | None = Field(None, gt=0)
    power: float | None = Field(None, gt=0)
    lr_end: float | None = Field(None, ge=0)
    timescale: float | None = Field(None, gt=0)
    min_lr: float | list[float] | None = None
    min_lr_rate: Share | None = None
    min_lr_ratio: Share | None = None
    warmup_lr_rate: Share | None = None
    num_decay_steps: int | None = Field(None, gt=0)
    num_stable_steps: int | None = Field(None, ge=0)
    warmup_type: Curve | None = None
    decay_type: Curve | None = None
    mode: Literal["min", "max"] | None = None
    factor: float | None = Field(None, gt=0, lt=1)
    patience: int | None = Field(None, ge=0)
    threshold: float | None = Field(None, ge=0)
    threshold_mode: Literal["rel", "abs"] | None = None
    cooldown: int | None = Field(None, ge=0)
    eps: float | None = Field(None, ge=0)


WITHOUT_WARMUP: Final = {"constant": "constant_with_warmup", "reduce_lr_on_plateau": "another"}
"""Schedules that pass over ``warmup_steps``, and which one does not."""


def schedule_problems(plan: Plan) -> Iterator[Problem]:
    """What ``lr_scheduler_type``, its keyword arguments and the warm-up cannot be together."""
    name = plan.get("lr_scheduler_type", "linear")
    words = _words(plan.get("lr_scheduler_kwargs"))
    if words is None:
        yield _problem("lr_scheduler_kwargs is not a mapping", "it holds named values", "write {name: value}")
        return
    yield from _values(words)
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
            f"warmup_steps has no effect with lr_scheduler_type {name}",
            why="this schedule begins at the full learning rate",
            remedy=f"take warmup_steps out, or choose {WITHOUT_WARMUP[name]} schedule",
            keys=("warmup_steps", "lr_scheduler_type"),
        )


def _values(words: Mapping[str, Any]) -> Iterator[Problem]:
    """What transformers would only find once the model is loaded, or never: a schedule that does not move."""
    try:
        Words.model_validate(words)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = each["loc"][0]
            yield _problem(f"lr_scheduler_kwargs: {name} is {words[str(name)]!r}", each["msg"], f"correct {name}")


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
    if name == "polynomial" and isinstance(lowest, int | float) and lowest >= highest:
        yield _problem(
            f"lr_scheduler_type polynomial falls from learning_rate {highest:g} to lr_end {lowest:g}",
            "the end must be the lower one",
            "set lr_scheduler_kwargs: {lr_end: …}",
        )
    if name == "reduce_lr_on_plateau":
        yield from _plateau(words, plan)


def _plateau(words: Mapping[str, Any], plan: Plan) -> Iterator[Problem]:
    """It watches ``metric_for_best_model``, and takes less for better unless it is told otherwise."""
    if plan.get("eval_strategy", "no") == "no":
        yield _problem(
            "lr_scheduler_type reduce_lr_on_plateau needs evaluations while training",
            "it lowers the learning rate when they no longer improve",
            "set eval_strategy: steps or epoch",
        )
    metric, greater = plan.get("metric_for_best_model") or "loss", plan.get("greater_is_better")
    greater = not metric.endswith("loss") if greater is None else greater
    mode, better, wrongly = words.get("mode", "min"), *(("max", "less") if greater else ("min", "more"))
    if mode != better:
        yield _problem(
            f"lr_scheduler_type reduce_lr_on_plateau would take {wrongly} {metric} for better",
            f"mode is {mode}, and greater_is_better {str(greater).lower()}",
            f"set lr_scheduler_kwargs: {{mode: {better}}}",
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
