"""LoRA: low-rank updates of frozen weights (Hu et al. 2021, arXiv:2106.09685), with rsLoRA and DoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft.errors import ConfigError, DataError
from ft.modeling import trainable_report
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.adapters import _earlier, _targets
from ft_plugins.adapters._weights import bridge, cast_trainable, plain_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan, Run


class LoraOptions(PluginOptions):
    """Which weights get an update, and of what form."""

    lora_rank: int = Field(default=8, ge=1, description="Rank of the update of each weight matrix.")
    lora_alpha: int | None = Field(
        default=None,
        ge=1,
        description="Scale of the update, which is multiplied by alpha / rank. Unset: twice the rank.",
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the update, as a share of inputs.")
    lora_target: list[str] = Field(
        default=["all"],
        min_length=1,
        description="Modules to update, by the end of their names; `all` is every linear layer but the head.",
    )
    additional_target: list[str] | None = Field(
        default=None, description="Further modules that train as a whole and are saved with the adapter."
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / √rank (rank-stabilised LoRA).")
    use_dora: bool = Field(default=False, description="Train direction and magnitude separately (DoRA).")
    create_new_adapter: bool = Field(
        default=False, description="Merge all of `adapter_name_or_path` and train a new adapter on top."
    )

    @property
    def alpha(self) -> int:
        """``lora_alpha`` or its default."""
        return self.lora_alpha or 2 * self.lora_rank


KEPT: Final = {
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""Keys that an adapter fixes once it exists, and their names in its configuration."""

TARGETS: Final = {"lora_target": (".lora_",), "additional_target": (".modules_to_save.",)}
"""Keys that name modules, and what marks the parameters that peft puts into those."""


@hookimpl
def ft_options() -> type[PluginOptions]:
    return LoraOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Adapters to start from that are not there, or that the other keys contradict."""
    options, names = plan.of(LoraOptions), _earlier.names(plan)
    if options.create_new_adapter and not names:
        yield Problem(
            "create_new_adapter without adapter_name_or_path",
            why="a run without adapter_name_or_path always trains a new adapter",
            remedy="leave create_new_adapter out, or name the adapters to merge first",
            keys=("create_new_adapter",),
        )
    merged, continued = _split(options, names)
    if merged and (quantizer := plan.plugin("quantizers")):
        yield Problem(
            f"adapters cannot be merged into weights quantised by {quantizer.name!r}",
            why="the sum would be rounded again",
            remedy="name one adapter without create_new_adapter, or merge into the unquantised model first",
            keys=("create_new_adapter", "adapter_name_or_path"),
        )
    for name in filter(_earlier.is_local, names):
        yield from _check_local(plan, name, goes_on=name == continued)


def _check_local(plan: Plan, name: str, *, goes_on: bool) -> Iterable[Problem]:
    try:
        config = _earlier.check_adapter(Path(name).expanduser(), "")
        if goes_on:
            _check_kept(plan, config)
    except (ConfigError, DataError) as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        yield Problem(what, error.why, error.remedy, ("adapter_name_or_path",), error.exit_code)


def _split(options: LoraOptions, names: list[str]) -> tuple[list[str], str | None]:
    """The adapters to merge, and the one that goes on training."""
    if options.create_new_adapter or not names:
        return names, None
    return names[:-1], names[-1]


def _check_kept(plan: Plan, config: Mapping[str, Any]) -> None:
    """A key that the user set and that the continued adapter contradicts would have no effect."""
    options = plan.of(LoraOptions)
    for key, name in KEPT.items():
        if plan.is_set(key) and (wanted := getattr(options, key)) is not None and wanted != config.get(name, wanted):
            raise ConfigError(
                f"{key} is {wanted}, but the adapter that goes on training has {config[name]}",
                where=str(plan.sources[key]),
                remedy=f"leave {key} out, or set create_new_adapter: true for a new adapter on top",
            )


@hookimpl
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Freeze the model and add an update that trains, or take up one that exists.

    ``Change.modules`` are the names that the modules had before.

    Raises:
        ConfigError: a target that the model does not have.
        DataError: an adapter that does not fit it.
    """
    options = run.plan.of(LoraOptions)
    merged, continued = _split(options, _earlier.names(run.plan))
    for name in merged:
        model = _earlier.merge(model, _earlier.folder_of(name, run.plan))
    adapted = _continue(run.plan, model, continued) if continued else _create(run.plan, model)
    _settle(adapted, run.plan, outside=model.dtype)
    config = adapted.peft_config["default"]
    modules = _training_modules(adapted)
    form = "DoRA" if config.use_dora else "rsLoRA" if config.use_rslora else "LoRA"
    start = f", after merging {', '.join(merged)}" if merged else f", continuing {continued}" if continued else ""
    summary = f"{form} rank {config.r}, alpha {config.lora_alpha} on {len(modules)} layers"
    return Change(
        adapted, f"{summary}: {trainable_report(adapted)}{start}", frozenset(modules), {"merged_adapters": merged}
    )


def _create(plan: Plan, model: PreTrainedModel) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    options = plan.of(LoraOptions)
    targets = _find(plan, model, "lora_target")
    whole = _find(plan, model, "additional_target")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        lora_alpha=options.alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_targets.shortest(model, targets),
        modules_to_save=_targets.shortest(model, whole) if whole else None,
        ensure_weight_tying=_is_tied(model, [*targets, *whole]),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    return get_peft_model(model, config)


def _continue(plan: Plan, model: PreTrainedModel, name: str) -> PeftModel:
    folder = _earlier.folder_of(name, plan)
    _check_kept(plan, _earlier.check_adapter(folder, name))
    wanted = {key: set(_find(plan, model, key)) for key in TARGETS if plan.is_set(key)}
    adapted = _earlier.take_up(model, folder)
    for key, modules in wanted.items():
        if modules != _training_modules(adapted, TARGETS[key]):
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
    names = getattr(plan.of(LoraOptions), key) or []
    where = str(plan.sources.get(key, ""))
    return _targets.find(model, names, key, where, whole=key == "additional_target")


def _is_tied(model: PreTrainedModel, names: list[str]) -> bool:
    """Whether one of the modules shares its weight with the other end of the model."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    shared = None not in ends and ends[0].weight is ends[1].weight
    return shared and any(model.get_submodule(name) in ends for name in names)


def _training_modules(adapted: PeftModel, markers: tuple[str, ...] = (".lora_", ".modules_to_save.")) -> set[str]:
    """The modules with parameters that train, as they were called before peft wrapped them."""
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    return {
        name.removeprefix("base_model.model.").split(marker)[0]
        for name in names
        for marker in markers
        if marker in name
    }


@hookimpl
def ft_save_model(run: Run, model: PeftModel, folder: Path) -> bool:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as peft reads them."""
    config = model.peft_config["default"]
    if run.model_files is not None:
        config.base_model_name_or_path = run.model_files.path
        config.revision = run.model_files.revision
    with plain_config(model):
        model.save_pretrained(folder, save_embedding_layers=False)
    return True
