"""Keys that each are right and together are not: found while planning, before a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.config.complaints import ALONE
from ft.data.checks import data_problems
from ft.data.templates import template_names, unknown_template
from ft.processes import process_problems
from ft.schedules import schedule_problems
from ft.vocabulary import vocabulary_problems
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft.plugins import PluginManager
    from ft_hookspecs import Plan


def combination_problems(plan: Plan, manager: PluginManager) -> Iterator[Problem]:
    """What the keys of the run, of evaluation and of saving cannot be together."""
    if not (plan.get("do_train", True) or plan.get("do_eval") or plan.get("do_predict")):
        yield Problem(
            "there is nothing to do",
            why="do_train, do_eval and do_predict are all false",
            remedy="set one of them to true",
            keys=("do_train",),
        )
    yield from _several(plan)
    yield from _optimizers(manager)
    if plan.get("do_predict") and not manager.implementers("ft_predict"):
        yield Problem("no selected plugin predicts", remedy="take do_predict out", keys=("do_predict",))
    if "reward_model" in plan.values and not (plan.get("reward_model") or manager.implementers("ft_reward")):
        yield Problem(
            "nothing gives a reward",
            why="there is neither a reward_model nor a plugin that implements ft_reward",
            remedy="set reward_model to what stage: rm saved, or add a plugin (plugins: my_reward.py)",
            keys=("reward_model", "stage"),
        )
    yield from process_problems(plan)
    yield from data_problems(plan)
    yield from _template(plan, manager)
    yield from _evaluation(plan, manager)
    if plan.get("save_strategy") == "best" and plan.get("eval_strategy", "no") == "no":
        yield Problem(
            "save_strategy: best needs evaluations while training",
            why="a checkpoint is saved when an evaluation is better than all before",
            remedy="set eval_strategy: steps or epoch",
            keys=("save_strategy", "eval_strategy"),
        )
    if plan.get("load_best_model_at_end"):
        yield from _best(plan)
    elif plan.get("early_stopping_steps"):
        yield Problem(
            "early_stopping_steps needs load_best_model_at_end",
            why="training stops when evaluations no longer improve on the best, which is then the model to keep",
            remedy="set load_best_model_at_end: true, and eval_strategy and save_strategy alike",
            keys=("early_stopping_steps",),
        )
    yield from schedule_problems(plan)
    yield from vocabulary_problems(plan)


def _several(plan: Plan) -> Iterator[Problem]:
    """A second stage or adapter would have its keys accepted, and would not act."""
    for kind, key in ALONE.items():
        names = [info.name for info in plan.plugins if info.kind == kind]
        if len(names) > 1:
            yield Problem(
                f"only one of {' and '.join(names)} can be the {key}",
                why=f"a run has one plugin of kind {kind}",
                remedy=f"keep one: {key}: {names[0]}",
                keys=(key, "plugins"),
            )


def _optimizers(manager: PluginManager) -> Iterator[Problem]:
    """The first of several would step the weights, and the others would not."""
    names = [info.name for info in manager.implementers("ft_create_optimizer")]
    if len(names) > 1:
        yield Problem(
            f"{' and '.join(names)} each make the optimizer",
            why="a run has one",
            remedy=f"keep one of them, and leave the {'other' if len(names) == 2 else 'others'} out",
            keys=tuple(f"use_{name}" for name in reversed(names)),
        )


def _template(plan: Plan, manager: PluginManager) -> Iterator[Problem]:
    """A template that no plugin has. A plugin that does not say which it has is asked when the data is read."""
    silent = set(manager.implementers("ft_template")) - set(manager.implementers("ft_template_names"))
    name = plan.get("template")
    if name and not silent and name not in template_names(manager.hook, plan):
        error = unknown_template(manager.hook, plan, name)
        yield Problem(error.what, error.why, error.remedy, ("template",), error.exit_code)


def _evaluation(plan: Plan, manager: PluginManager) -> Iterator[Problem]:
    """Asking for evaluation without saying on what; a plugin beside the stage may measure something else."""
    measured = any(info.kind != "stages" for info in manager.implementers("ft_evaluate"))
    needing = ("load_best_model_at_end", "do_predict", *(() if measured else ("do_eval", "eval_on_start")))
    asked = [key for key in needing if plan.get(key)]
    asked += ["eval_strategy"] if plan.get("eval_strategy", "no") != "no" else []
    asked += ["save_strategy"] if plan.get("save_strategy") == "best" else []
    kept = plan.get("tokenized_path") and not plan.get("dataset")  # which splits lie there is seen when it is read
    if asked and not (plan.get("eval_dataset") or plan.get("val_size") or kept):
        yield Problem(
            "there is no data to evaluate on",
            why=f"{', '.join(asked)} {'asks' if len(asked) == 1 else 'ask'} for evaluation",
            remedy="set eval_dataset or val_size, or take these keys out",
            keys=tuple(asked),
        )


def _best(plan: Plan) -> Iterator[Problem]:
    """The best model is one that was both evaluated and saved (the conditions of ``TrainingArguments``)."""
    evaluated, saved = plan.get("eval_strategy", "no"), plan.get("save_strategy", "steps")
    every, save_every = plan.get("eval_steps") or plan.get("logging_steps"), plan.get("save_steps")
    if saved == "best":
        return
    keys = ("load_best_model_at_end", "save_strategy", "eval_strategy")
    if evaluated != saved or evaluated == "no":
        yield Problem(
            "load_best_model_at_end needs evaluation whenever a checkpoint is saved",
            why=f"eval_strategy is {evaluated} and save_strategy is {saved}",
            remedy="set both to steps, or both to epoch",
            keys=keys,
        )
    elif evaluated == "steps" and not _divides(every, save_every):
        yield Problem(
            "load_best_model_at_end needs evaluation whenever a checkpoint is saved",
            why=f"save_steps is {save_every:g}, not a multiple of eval_steps, which is {every:g}",
            remedy="set save_steps to eval_steps or a multiple of it",
            keys=("load_best_model_at_end", "save_steps", "eval_steps"),
        )


def _divides(part: float, whole: float) -> bool:
    """Whether evaluation falls on each save; below 1 both are shares of the run."""
    if not part or (part < 1) != (whole < 1):
        return False
    times = whole / part
    return abs(times - round(times)) < 1e-6
