"""What the adapters of peft have in common: where they start from, what of them trains, and how they are saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ft.errors import ConfigError, DataError
from ft.modeling import trainable_report
from ft.quantization import quantizer
from ft.vocabulary import new_embeddings
from ft_hookspecs import Change, PluginOptions, Problem
from ft_plugins import _saved_adapters
from ft_plugins.adapters import _targets
from ft_plugins.adapters._weights import bridge, cast_trainable, plain_config
from ft_plugins.models._headers import layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan, Run


class PeftOptions(PluginOptions):
    """What trains beside the adapter, and what it is put upon."""

    additional_target: list[str] | None = Field(
        default=None, description="Further modules that train as a whole and are saved with the adapter."
    )
    create_new_adapter: bool = Field(
        default=False, description="Merge all of `adapter_name_or_path` and train a new adapter on top."
    )


@dataclass(frozen=True)
class Method:
    """A kind of adapter.

    ``kind`` is peft's name of it, ``marker`` what stands in the names of its parameters, ``target`` the key that names
    modules, and ``kept`` the keys that an adapter fixes once it exists, with their names in its configuration.
    """

    kind: str
    marker: str
    target: str
    kept: Mapping[str, str]

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """Keys that name modules, and what marks the parameters that peft puts into those."""
        return {self.target: (self.marker,), "additional_target": (".modules_to_save.",)}


# ---- before anything is loaded ------------------------------------------------------------------------------------


def problems(method: Method, plan: Plan) -> Iterable[Problem]:
    """Adapters to start from that are not there, or that the other keys contradict; names that mean no module."""
    options, names = plan.of(PeftOptions), _saved_adapters.names(plan)
    if options.create_new_adapter and not names:
        yield Problem(
            "create_new_adapter without adapter_name_or_path",
            why="a run without adapter_name_or_path always trains a new adapter",
            remedy="leave create_new_adapter out, or name the adapters to merge first",
            keys=("create_new_adapter",),
        )
    merged, continued = _saved_adapters.split(plan)
    if merged and (found := quantizer(plan)):
        yield Problem(
            f"adapters cannot be merged into weights quantised by {found.name!r}",
            why="the sum would be rounded again",
            remedy="name one adapter without create_new_adapter, or merge into the unquantised model first",
            keys=("create_new_adapter", "adapter_name_or_path"),
        )
    for name in filter(_saved_adapters.is_local, names):
        yield from _check_local(method, plan, name, goes_on=name == continued)
    layout = layout_of(plan)
    for key in method.targets:
        yield from _targets.problems(plan, layout, key, whole=key == "additional_target")


def _check_local(method: Method, plan: Plan, name: str, *, goes_on: bool) -> Iterable[Problem]:
    folder = Path(name).expanduser()
    try:
        config = _saved_adapters.check_adapter(folder, "", [method.kind] if goes_on else _saved_adapters.KINDS)
        _saved_adapters.check_base(folder, str(plan.get("model_name_or_path")))
        if goes_on:
            _check_kept(method, plan, config)
    except (ConfigError, DataError) as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        yield Problem(what, error.why, error.remedy, ("adapter_name_or_path",), error.exit_code)


def _check_kept(method: Method, plan: Plan, config: Mapping[str, Any]) -> None:
    """A key that the user set and that the continued adapter contradicts would have no effect."""
    for key, name in method.kept.items():
        if plan.is_set(key) and (wanted := plan.get(key)) is not None and wanted != config.get(name, wanted):
            raise ConfigError(
                f"{key} is {wanted}, but the adapter that goes on training has {config[name]}",
                where=str(plan.sources[key]),
                remedy=f"leave {key} out, or set create_new_adapter: true for a new adapter on top",
            )


# ---- surgery ------------------------------------------------------------------------------------------------------


def adapt(
    method: Method, run: Run, model: PreTrainedModel, create: Callable[..., PeftModel], form: Callable[[Any], str]
) -> Change:
    """Freeze the model and add an update that trains, or take up one that exists.

    Args:
        method: what kind of update.
        run: with the plan.
        model: as the phases before left it.
        create: makes a new adapter of the run, the model, and peft's names of targets and of what trains as a whole.
        form: says what an adapter of this configuration is.

    Raises:
        ConfigError: a target that the model does not have, or that cannot train.
        DataError: an adapter that does not fit it.
    """
    outside = model.dtype
    merged, continued = _saved_adapters.split(run.plan)
    model = _merge(run.plan, model, merged)
    adapted = _continue(method, run, model, continued) if continued else _create(method, run, model, create)
    _settle(adapted, run.plan, outside)
    modules = _training_modules(adapted, (method.marker, ".modules_to_save."))
    start = f", after merging {', '.join(merged)}" if merged else f", continuing {continued}" if continued else ""
    summary = f"{form(adapted.peft_config['default'])} on {len(modules)} layers: {trainable_report(adapted)}{start}"
    return Change(adapted, summary, frozenset(modules), {"merged_adapters": merged})


def _merge(plan: Plan, model: PreTrainedModel, names: list[str]) -> PreTrainedModel:
    if names and getattr(model, "is_quantized", False):
        raise ConfigError(
            "adapters cannot be merged into a model whose files are quantised",
            where=str(plan.sources.get("adapter_name_or_path", "")),
            remedy="name one adapter without create_new_adapter, or merge into the unquantised model first",
        )
    for name in names:
        model = _saved_adapters.merge(model, _saved_adapters.folder_of(name, plan))
    return model


def _create(method: Method, run: Run, model: PreTrainedModel, create: Callable[..., PeftModel]) -> PeftModel:
    targets = _find(run.plan, model, method.target)
    whole = list(dict.fromkeys([*_find(run.plan, model, "additional_target"), *new_embeddings(run, model)]))
    _check_whole(run.plan, model, whole)
    return create(
        run,
        model,
        target_modules=_targets.shortest(model, [name for name in targets if name not in whole]),
        modules_to_save=_targets.shortest(model, whole, whole=True) if whole else None,
        ensure_weight_tying=_is_tied(model, [*targets, *whole]),
    )


def _check_whole(plan: Plan, model: PreTrainedModel, names: list[str]) -> None:
    for name in names:
        if not all(parameter.is_floating_point() for parameter in model.get_submodule(name).parameters()):
            raise ConfigError(
                f"additional_target: {name} is quantised and cannot train as a whole",
                where=str(plan.sources.get("additional_target", "")),
                remedy="leave it out: the adapter acts on it without changing it",
            )


def _continue(method: Method, run: Run, model: PreTrainedModel, name: str) -> PeftModel:
    plan = run.plan
    folder = _saved_adapters.folder_of(name, plan)
    config = _saved_adapters.check_adapter(folder, name, [method.kind])
    _check_kept(method, plan, config)
    wanted = {key: set(_find(plan, model, key)) for key in method.targets if plan.is_set(key)}
    grown = set(new_embeddings(run, model))
    adapted = _saved_adapters.take_up(model, folder)
    for key, modules in wanted.items():
        if modules != _training_modules(adapted, method.targets[key]) - (grown - modules):
            raise ConfigError(
                f"{key} means other modules than those of the adapter that goes on training",
                where=str(plan.sources[key]),
                remedy=f"leave {key} out, or set create_new_adapter: true for a new adapter on top",
            )
    return adapted


def _settle(adapted: PeftModel, plan: Plan, outside: torch.dtype) -> None:
    """Dtypes of what trains, and an adapter_config.json that is the same for the same run."""
    from peft.utils import ModulesToSaveWrapper

    cast_trainable(adapted, plan)
    for wrapper in adapted.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            bridge(wrapper.modules_to_save["default"], outside)
    config = adapted.peft_config["default"]
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)


def _find(plan: Plan, model: PreTrainedModel, key: str) -> list[str]:
    """The modules that one of the two target keys means; none for an ``additional_target`` that is not set."""
    whole = key == "additional_target"
    known = _targets.modules(model) if whole else _targets.matrices(model)
    every = None if whole else _targets.linear_layers(model)
    return _targets.match(plan.get(key) or [], known, key, str(plan.sources.get(key, "")), every=every)


def _is_tied(model: PreTrainedModel, names: list[str]) -> bool:
    """Whether one of the modules shares its weight with the other end of the model."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    shared = None not in ends and ends[0].weight is ends[1].weight
    return shared and any(model.get_submodule(name) in ends for name in names)


def _training_modules(adapted: PeftModel, markers: tuple[str, ...]) -> set[str]:
    """The modules with parameters that train, as they were called before peft wrapped them."""
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    return {
        name.removeprefix("base_model.model.").split(marker)[0]
        for name in names
        for marker in markers
        if marker in name
    }


def save(run: Run, model: PeftModel, folder: Path) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as peft reads them."""
    config = model.peft_config["default"]
    if run.model_files is not None:
        config.base_model_name_or_path = run.model_files.path
        config.revision = run.model_files.revision
    with plain_config(model):
        model.save_pretrained(folder, save_embedding_layers=False)
