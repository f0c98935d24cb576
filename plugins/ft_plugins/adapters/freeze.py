"""Freeze tuning: some of the model's layers train as they are, the rest stays as it was.

``use_llama_pro`` trains the last layer of each of n equal groups: the blocks that LLaMA-Pro adds (Wu et al. 2024,
arXiv:2401.02415).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field

from ft.errors import ConfigError, refusals
from ft.modeling import trainable_report
from ft.vocabulary import new_embeddings
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.adapters import _estimate, _targets
from ft_plugins.adapters._weights import cast_trainable, run_in, save_whole, whole_weights_problems
from ft_plugins.models._headers import layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1


class FreezeOptions(PluginOptions):
    """Which layers train, which of their modules, and what else."""

    freeze_trainable_layers: int = Field(
        default=2, description="Layers that train: the last n; the first |n| when negative."
    )
    freeze_trainable_modules: list[str] = Field(
        default=["all"],
        min_length=1,
        description="Modules of those layers that train (`mlp`, `self_attn`, `q_proj` …); `all` is the whole layer.",
    )
    freeze_extra_modules: list[str] | None = Field(
        default=None, description="Modules outside the layers that train too (`embed_tokens`, `norm`, `lm_head` …)."
    )
    use_llama_pro: bool = Field(
        default=False, description="Train the last layer of each of `freeze_trainable_layers` equal groups of layers."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return FreezeOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """No layer at all, and what no tuning of the weights themselves can do."""
    options = plan.of(FreezeOptions)
    if options.freeze_trainable_layers == 0:
        yield Problem(
            "freeze_trainable_layers: 0 trains no layer",
            remedy="write how many: the last n, or the first with a minus; finetuning_type: full trains them all",
            keys=("freeze_trainable_layers",),
        )
    if options.use_llama_pro and options.freeze_trainable_layers < 0:
        yield Problem(
            "use_llama_pro needs a positive freeze_trainable_layers",
            why="it is the number of groups of which the last layer trains",
            remedy="write the number of blocks that were added",
            keys=("freeze_trainable_layers", "use_llama_pro"),
        )
    yield from whole_weights_problems(plan, "freeze tuning")
    if options.freeze_trainable_layers > 0 or (options.freeze_trainable_layers and not options.use_llama_pro):
        yield from _check_files(plan)


def _check_files(plan: Plan) -> Iterable[Problem]:
    """Layers and modules that the model does not have, as far as its files are here."""
    if (layout := layout_of(plan)) is None:
        return
    known, (holder, count) = layout.modules, layout.layers
    too_many = refusals(lambda: chosen_layers(plan, count), "freeze_trainable_layers")
    yield from too_many or refusals(
        lambda: [parts(plan, known, f"{holder}.{number}") for number in chosen_layers(plan, count)],
        "freeze_trainable_modules",
    )
    yield from refusals(lambda: extra_modules(plan, known, holder), "freeze_extra_modules")


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    options = plan.of(FreezeOptions)
    numbers = chosen_layers(plan, estimate.shape.layers)
    further = options.freeze_extra_modules or ()
    return _estimate.layers(plan, estimate, numbers, options.freeze_trainable_modules, further)


@hookimpl
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Freeze the model, then let the chosen modules train.

    Raises:
        ConfigError: more layers than there are, a module that no layer has, or a quantised model.
    """
    layers = find_layers(model)
    numbers, known = list(chosen_layers(run.plan, len(layers))), _targets.modules(model)
    inside = [f"{layers[number]}{part}" for number in numbers for part in parts(run.plan, known, layers[number])]
    holder = layers[0].rpartition(".")[0]
    extra = dict.fromkeys([*extra_modules(run.plan, known, holder), *new_embeddings(run, model)])
    names = [*inside, *extra]
    cast("nn.Module", model).requires_grad_(False)
    for name in names:
        if any(not parameter.is_floating_point() for parameter in model.get_submodule(name).parameters()):
            raise ConfigError("freeze tuning cannot train a quantised module", where=name)
        model.get_submodule(name).requires_grad_(True)
    outside = model.dtype
    cast_trainable(model, run.plan)
    for name in names:
        run_in(model.get_submodule(name), outside)
    shown = ", ".join(map(str, numbers))
    summary = f"freeze: layers {shown} of {len(layers)} train: {trainable_report(model)}"
    return Change(model, summary, frozenset(names), {"modules": names})


def find_layers(model: PreTrainedModel) -> list[str]:
    """The names of the decoder's layers in order: the longest list of modules that lies in no other."""
    from torch import nn

    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ConfigError(
            "freeze tuning finds no layers", where=type(model).__name__, remedy="set finetuning_type: lora"
        )
    name = max(outermost(lists), key=lists.__getitem__)
    return [f"{name}.{number}" for number in range(lists[name])]


def chosen_layers(plan: Plan, count: int) -> Sequence[int]:
    """The numbers of the layers that train, from 0.

    Raises:
        ConfigError: there are not as many, or they cannot be grouped.
    """
    options = plan.of(FreezeOptions)
    wanted = options.freeze_trainable_layers
    where = str(plan.sources.get("freeze_trainable_layers", ""))
    if abs(wanted) > count:
        raise ConfigError(
            f"freeze_trainable_layers is {wanted}, but the model has {count} layers",
            where=where,
            remedy=f"write at most {count}, or finetuning_type: full",
        )
    if not options.use_llama_pro:
        return range(count - wanted, count) if wanted > 0 else range(-wanted)
    if count % wanted:
        divisors = [str(number) for number in range(1, count + 1) if count % number == 0]
        raise ConfigError(
            f"use_llama_pro: {count} layers cannot be divided into {wanted} equal groups",
            where=where,
            remedy=f"freeze_trainable_layers can be {', '.join(divisors)}",
        )
    return range(count // wanted - 1, count, count // wanted)


def parts(plan: Plan, known: Iterable[str], layer: str) -> list[str]:
    """The ends, from the layer's name on, of what trains in it: empty for the layer as a whole."""
    wanted = plan.of(FreezeOptions).freeze_trainable_modules
    if wanted == [_targets.ALL]:
        return [""]
    inside = [name.removeprefix(f"{layer}.") for name in known if name.startswith(f"{layer}.")]
    return [f".{name}" for name in outermost(_match(plan, "freeze_trainable_modules", wanted, inside))]


def extra_modules(plan: Plan, known: Iterable[str], holder: str) -> list[str]:
    """The modules outside ``holder``, the list of layers, that train too; a name never means one inside a layer."""
    wanted = plan.of(FreezeOptions).freeze_extra_modules or []
    outside = [name for name in known if not f"{name}.".startswith(f"{holder}.")]
    return outermost(_match(plan, "freeze_extra_modules", wanted, outside))


def _match(plan: Plan, key: str, names: list[str], known: list[str]) -> list[str]:
    return _targets.match(names, known, key, str(plan.sources.get(key, "")))


def outermost(names: Iterable[str]) -> list[str]:
    """Without those that lie inside another one."""
    kept = list(names)
    return [name for name in kept if not any(name.startswith(f"{other}.") for other in kept)]


@hookimpl
def ft_save_model(model: PreTrainedModel, folder: Path) -> bool:
    """The whole model as safetensors, each weight in the format it has."""
    save_whole(model, folder)
    return True
