"""The optimizers that transformers makes of the key ``optim``: which of them a run can have, and what each needs.

Always selected. What none of the other plugins of this kind makes is made by the trainer, of the same groups.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple

from ft.devices import on_gpu
from ft_hookspecs import Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import Plan


class Optim(NamedTuple):
    """What one name of ``optim`` needs.

    ``package`` is an import name and ``install`` what to type for it; ``args`` are the keys of ``optim_args`` that
    transformers reads; ``gpu`` why a GPU is needed; ``inexact`` why its state cannot be saved exactly; ``refused`` why
    it cannot be had at all, and ``instead`` what to write.
    """

    package: str = ""
    install: str = ""
    args: frozenset[str] = frozenset()
    gpu: str = ""
    inexact: str = ""
    refused: str = ""
    instead: str = "adamw_torch"


def _args(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TORCH: Final = Optim()
_BNB: Final = Optim("bitsandbytes", "pip install 'ft-framework[bnb]'")
_PAGED: Final = _BNB._replace(gpu="it pages the state between the GPU's memory and the host's; there is none to page")
_MIX: Final = _args("beta1 beta2 beta3 alpha eps t_alpha t_beta3")
_FREE: Final = Optim("schedulefree", "pip install 'schedulefree>=1.4'", _args("weight_lr_power r"))
_LOW_BIT: Final = Optim(
    "torchao",
    "pip install torchao",
    _args("block_size bf16_stochastic_round"),
    inexact="torchao keeps its state in tensors of its own, which safetensors cannot hold",
)
_GALORE: Final = Optim(refused="it has a plugin, whose checkpoints are exact", instead="use_galore: true")
_APOLLO: Final = _GALORE._replace(instead="use_apollo: true")
_LOMO: Final = Optim(refused="it changes weights in the backward pass of its own and keeps its state from checkpoints")

NAMES: Final[dict[str, Optim]] = {
    "adamw_torch": _TORCH,
    "adamw_torch_fused": _TORCH,
    "adamw_torch_xla": Optim(refused="it is for TPUs, which ft does not use"),
    "adamw_torch_npu_fused": Optim(refused="it is for Ascend NPUs, which ft does not use"),
    "adafactor": _TORCH,
    "adamw_anyprecision": Optim(refused="it is part of torchdistx, which is given up", instead="pure_bf16: true"),
    "adamw_torch_4bit": _LOW_BIT,
    "adamw_torch_8bit": _LOW_BIT._replace(instead="adamw_8bit"),
    "ademamix": _BNB._replace(args=_MIX),
    "sgd": Optim(args=_args("momentum dampening nesterov")),
    "adagrad": Optim(args=_args("lr_decay eps")),
    "adamw_bnb_8bit": _BNB,
    "adamw_8bit": _BNB,
    "ademamix_8bit": _BNB._replace(args=_MIX),
    "lion_8bit": _BNB,
    "lion_32bit": _BNB,
    "paged_adamw_32bit": _PAGED,
    "paged_adamw_8bit": _PAGED._replace(instead="adamw_8bit"),
    "paged_ademamix_32bit": _PAGED._replace(args=_MIX, instead="ademamix"),
    "paged_ademamix_8bit": _PAGED._replace(args=_MIX, instead="ademamix_8bit"),
    "paged_lion_32bit": _PAGED._replace(instead="lion_32bit"),
    "paged_lion_8bit": _PAGED._replace(instead="lion_8bit"),
    "rmsprop": Optim(args=_args("momentum alpha eps centered")),
    "rmsprop_bnb": _BNB,
    "rmsprop_bnb_8bit": _BNB,
    "rmsprop_bnb_32bit": _BNB,
    "galore_adamw": _GALORE,
    "galore_adamw_8bit": _GALORE._replace(instead="use_galore: true and optim: adamw_8bit"),
    "galore_adafactor": _GALORE._replace(instead="use_galore: true and optim: adafactor"),
    "galore_adamw_layerwise": _GALORE._replace(instead="use_galore: true and galore_layerwise: true"),
    "galore_adamw_8bit_layerwise": _GALORE._replace(instead="use_galore: true and galore_layerwise: true"),
    "galore_adafactor_layerwise": _GALORE._replace(instead="use_galore: true and galore_layerwise: true"),
    "lomo": _LOMO._replace(instead="use_galore: true and galore_layerwise: true"),
    "adalomo": _LOMO._replace(instead="use_galore: true and galore_layerwise: true"),
    "grokadamw": Optim(
        "grokadamw",
        "pip install grokadamw",
        _args("alpha_init lamb gamma grokking_signal_decay_rate gradient_clipping"),
        inexact="GrokAdamW does not go on from its saved state as it would have without",
    ),
    "schedule_free_radam": _FREE,
    "schedule_free_adamw": _FREE,
    "schedule_free_sgd": _FREE,
    "apollo_adamw": _APOLLO,
    "apollo_adamw_layerwise": _APOLLO._replace(instead="use_apollo: true and apollo_layerwise: true"),
    "stable_adamw": Optim("optimi", "pip install torch-optimi", _args("max_lr kahan_sum decouple_lr")),
}
"""Every name that transformers knows. All that a CPU can run were trained, saved and resumed bit for bit on one."""


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    """What ``optim`` needs, where no plugin makes the optimizer."""
    if plan.get("do_train", True) and not _made_by_a_plugin(plan):
        name = str(plan.get("optim"))
        yield from _problems(plan, name, NAMES.get(name) or Optim(refused="ft does not know what it needs"))


def _made_by_a_plugin(plan: Plan) -> bool:
    return any(info.kind == "optimizers" and info.name != "optim" for info in plan.plugins)


def _problems(plan: Plan, name: str, optim: Optim) -> Iterator[Problem]:
    instead = optim.instead if ":" in optim.instead else f"optim: {optim.instead}"
    if optim.refused:
        yield Problem(f"optim: {name} is not available", why=optim.refused, remedy=f"write {instead}", keys=("optim",))
        return
    if optim.package and find_spec(optim.package) is None:
        yield Problem(
            f"optim: {name} needs the package {optim.package}",
            remedy=f"{optim.install}, or write {instead}",
            keys=("optim",),
            exit_code=5,
        )
    if optim.gpu and not on_gpu(plan):
        yield Problem(
            f"optim: {name} needs an NVIDIA GPU",
            why=optim.gpu,
            remedy=f"write {instead}",
            keys=("optim",),
            exit_code=5,
        )
    yield from _saving_problems(plan, name, optim)
    yield from _argument_problems(plan, name, optim)


def _saving_problems(plan: Plan, name: str, optim: Optim) -> Iterator[Problem]:
    if optim.inexact and not plan.get("save_only_model"):
        yield Problem(
            f"optim: {name} cannot be resumed exactly",
            why=optim.inexact,
            remedy="set save_only_model: true (its checkpoints then cannot be resumed), or another optim",
            keys=("optim",),
        )
    if optim.package == "schedulefree" and plan.get("load_best_model_at_end"):
        yield Problem(
            f"optim: {name} with load_best_model_at_end",
            why="a checkpoint holds the weights that train, and what was evaluated is their mean",
            remedy="take load_best_model_at_end out",
            keys=("load_best_model_at_end", "optim"),
        )


def _argument_problems(plan: Plan, name: str, optim: Optim) -> Iterator[Problem]:
    """Transformers passes over arguments that it does not read."""
    if plan.get("optim_target_modules"):
        yield Problem(
            f"optim_target_modules has no effect with optim: {name}",
            remedy="take it out; GaLore and APOLLO have galore_target and apollo_target",
            keys=("optim_target_modules",),
        )
    given = str(plan.get("optim_args") or "")
    pairs = [pair.partition("=") for pair in given.replace(" ", "").split(",") if pair]
    if wrong := [key for key, equals, value in pairs if key not in optim.args or not equals or not value]:
        yield Problem(
            f"optim_args: {', '.join(wrong)} cannot be given to {name}",
            why=f"it reads {', '.join(sorted(optim.args)) or 'none'}, written as name=value with commas",
            remedy="correct optim_args, or take it out; learning_rate, weight_decay and adam_* are keys of their own",
            keys=("optim_args",),
        )
