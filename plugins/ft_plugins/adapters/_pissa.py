"""PiSSA (Meng et al. 2024, arXiv:2404.02948): what it can be combined with, and how it begins and is saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ft.devices import sharding_problems
from ft.errors import ConfigError, refusals
from ft.quantization import quantizer
from ft_hookspecs import Problem
from ft_plugins._saved_adapters import RESIDUAL, split
from ft_plugins.adapters._weights import plain_config
from ft_plugins.models._headers import linear_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from ft_hookspecs import Change, Plan, Run


def problems(plan: Plan) -> Iterable[Problem]:
    """What PiSSA cannot be together with, and its keys where it is not used."""
    if not plan.get("pissa_init"):
        if plan.get("pissa_convert"):
            yield Problem(
                "pissa_convert without pissa_init: there is nothing to convert",
                remedy="set pissa_init: true, or take pissa_convert out",
                keys=("pissa_convert",),
            )
        return
    if found := quantizer(plan):
        yield Problem(
            f"pissa_init cannot change weights quantised by {found.name!r}",
            why="what it leaves of them would be rounded to the few levels of another matrix",
            remedy=f"train without quantisation once and save (max_steps: 1); then quantise that run's {RESIDUAL} as "
            "model_name_or_path, with its adapter as adapter_name_or_path and without pissa_init",
            keys=("pissa_init", "quantization_bit", "quantization_method"),
        )
    elif not split(plan)[1]:
        layers = linear_layers(plan, plan.get("lora_target"))
        yield from refusals(lambda: check_rank(plan, plan.get("lora_rank"), layers), "lora_rank", "pissa_init")
    if split(plan)[1]:
        yield Problem(
            "pissa_init is how a new adapter begins, and adapter_name_or_path goes on with one",
            remedy="take pissa_init out, or set create_new_adapter: true",
            keys=("pissa_init", "adapter_name_or_path"),
        )
    if plan.get("reward_model") and plan.get("reward_model_type", "lora") == "lora":
        yield Problem(
            "pissa_init changes the base that the reward adapter scores on",
            remedy="set reward_model_type: full, or take pissa_init out",
            keys=("pissa_init", "reward_model", "reward_model_type"),
        )
    why = "each process would take the principal part of its own shard, and not of the matrix"
    yield from sharding_problems(plan, "pissa_init", why, "or take pissa_init out", ("pissa_init",))


def create(run: Run, model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with the principal part of its targets moved into an adapter.

    Raises:
        ConfigError: a target has no principal part of this rank, or is quantised.
    """
    from ft_plugins.adapters._models.pissa import PissaModel

    _check_targets(run.plan, model, config)
    iterations = run.plan.get("pissa_iter")
    config.init_lora_weights = "pissa" if iterations == -1 else f"pissa_niter_{iterations}"
    return PissaModel(model, config)


def _check_targets(plan: Plan, model: PreTrainedModel, config: LoraConfig) -> None:
    from torch import nn

    ends, shapes = tuple(config.target_modules or ()), {}
    for name, module in model.named_modules():
        if not any(name == end or name.endswith(f".{end}") for end in ends):
            continue
        where, remedy = str(plan.sources.get("pissa_init", "")), "take pissa_init out, or name other modules"
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding) or weight is None or not weight.is_floating_point():
            raise ConfigError(f"pissa_init: {name} is not a linear layer of plain numbers", where=where, remedy=remedy)
        shapes[name] = weight.shape
    check_rank(plan, config.r, shapes)


def check_rank(plan: Plan, rank: int, layers: Mapping[str, Sequence[int]]) -> None:
    """Refuse a rank that a matrix cannot have.

    Raises:
        ConfigError: naming the first such layer, and the largest rank that all can have.
    """
    ranks = {name: min(shape) for name, shape in layers.items()}
    if narrow := next((name for name, most in ranks.items() if rank > most), ""):
        raise ConfigError(
            f"pissa_init: lora_rank is {rank}, but {narrow} has rank {ranks[narrow]} at most",
            where=str(plan.sources.get("lora_rank", "")) or str(plan.sources.get("pissa_init", "")),
            remedy=f"write at most {min(ranks.values())}",
        )


def settled(run: Run, change: Change) -> Change:
    """The change with a word for the model card about the base that the saved adapter belongs on."""
    own: dict[str, Any] = {} if run.plan.get("pissa_convert") else {"own_base": RESIDUAL}
    return replace(change, details={**change.details, **own})


def save(run: Run, model: PeftModel, folder: Path) -> None:
    """The adapter as it trained, and the base that it belongs on."""
    with plain_config(model):
        model.save_with_base(folder, run)
