"""What an optimizer is made of: the parameters that train, in groups with their learning rates and weight decays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import Trainer

from ft.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Run

Group = dict[str, Any]

ASKED: Final = ("initial_lr", "weight_decay", "betas", "eps", "momentum")
"""What a group of an optimizer is told by the configuration; the rest is its state, such as the learning rate now."""

HAPPENED: Final = {"last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter"}
"""What a schedule knows of the steps before; the rest is what the configuration says."""

SHOWN: Final = 5
"""Names of parameters in an error message."""


def parameter_groups(run: Run, model: nn.Module) -> list[Group]:
    """The parameters that train, each in one group with ``params``, ``lr`` and ``weight_decay``: for any optimizer.

    ``ft_parameter_groups`` decides, else there are two groups, as transformers makes them: what decays, and biases and
    norms, which do not. ``lr`` is the one that the schedule starts from.

    Raises:
        PluginError: a plugin's groups leave out a parameter that trains, or hold a frozen one or one twice.
    """
    rates = {"lr": run.plan.get("learning_rate"), "weight_decay": run.plan.get("weight_decay", 0.0)}
    groups = run.group_parameters(model)
    if groups is None:
        groups = _usual(model)
    else:
        groups = [{**group, "params": list(group["params"])} for group in groups]
        _check(groups, model)
    return [{**rates, **group} for group in groups if group["params"]]


def load_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """``load_state_dict``, and then the very tensors that were saved, and what this run asks for (:data:`ASKED`).

    torch casts a state to the format of its parameter, which would round the fp32 state of bf16 weights (Adafactor's);
    and it takes the constants of the run that saved, so that other ones would do nothing.
    """
    asked: list[Group] = [{key: group[key] for key in ASKED if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, values in zip(optimizer.param_groups, asked, strict=True):
        group.update(values)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, state in saved.get("state", {}).items():
        kept = optimizer.state[parameters[place]]
        for name, value in state.items():
            if isinstance(value, Tensor) and isinstance(kept.get(name), Tensor) and kept[name].dtype != value.dtype:
                kept[name] = value.to(kept[name].device)


def load_schedule(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """How far a schedule was, by its own rates: another ``learning_rate`` or length of the run acts from here on."""
    if isinstance(scheduler, LambdaLR | ReduceLROnPlateau):
        saved = {**saved, **{key: value for key, value in scheduler.state_dict().items() if key not in HAPPENED}}
    scheduler.load_state_dict(saved)
    if isinstance(scheduler, LambdaLR):
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        scheduler._last_lr = [base * rate(scheduler.last_epoch) for base, rate in rates]
        for group, now in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
            group["lr"] = now


def _usual(model: nn.Module) -> list[Group]:
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decaying]},
        {"params": [parameter for name, parameter in trained if name not in decaying], "weight_decay": 0.0},
    ]


def _check(groups: Iterable[Group], model: nn.Module) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    given = [id(parameter) for group in groups for parameter in group["params"]]
    wrong = {
        "leave out": [names[one] for one in trained - set(given)],
        "hold what does not train": [names.get(one, "a foreign one") for one in set(given) - trained],
        "hold twice": [names.get(one, "a foreign one") for one in set(given) if given.count(one) > 1],
    }
    faults = [f"{what} {_named(found)}" for what, found in wrong.items() if found]
    if faults:
        raise PluginError(
            f"the parameter groups {'; '.join(faults)}",
            why="every parameter that trains must be in exactly one group, and no other",
            remedy="fix the plugin that implements ft_parameter_groups, or leave it out",
        )


def _named(found: Sequence[str]) -> str:
    return ", ".join(sorted(found)[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
