"""OFT: frozen weights, turned by orthogonal matrices that train (Qiu et al. 2023, arXiv:2306.07280)."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft.errors import ConfigError, refusals
from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.adapters import _estimate, _peft, _targets
from ft_plugins.models._headers import layout_of, linear_layers, new_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run


class OftOptions(_peft.PeftOptions):
    """Which layers' inputs are turned, and in blocks of what size."""

    oft_rank: int = Field(default=0, ge=0, description="Number of blocks; 0: as many as `oft_block_size` gives.")
    oft_block_size: int = Field(
        default=32, ge=0, description="Numbers that are turned together; 0: as many as `oft_rank` gives."
    )
    oft_target: list[str] = Field(
        default=["all"],
        min_length=1,
        description="Layers to act on, by the end of their names; `all` is every linear layer but the head.",
    )
    module_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the blocks that do not turn in a training step."
    )

    @property
    def blocks(self) -> dict[str, int]:
        """The two ways of peft to say it, of which one is 0."""
        return {"r": self.oft_rank, "oft_block_size": 0 if self.oft_rank else self.oft_block_size}

    @property
    def size(self) -> tuple[str, int]:
        """The one that is not 0, with its key."""
        return ("oft_rank", self.oft_rank) if self.oft_rank else ("oft_block_size", self.oft_block_size)


ENDS: Final = ("embed_tokens", "wte", "word_embeddings", "embed_in", "lm_head", "embed_out")
"""What the modules that have a row for each token are called."""
METHOD: Final = _peft.Method(
    "OFT",
    ".oft_",
    "oft_target",
    {"oft_rank": "r", "oft_block_size": "oft_block_size", "module_dropout": "module_dropout"},
)


@hookimpl
def ft_options() -> type[PluginOptions]:
    return OftOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Blocks that are given twice or not at all, and adapters to start from that the other keys contradict."""
    options = plan.of(OftOptions)
    if options.oft_rank and options.oft_block_size and plan.is_set("oft_block_size"):
        yield Problem(
            "oft_rank and oft_block_size are both set",
            why="their product is the width of the layer: each follows from the other",
            remedy="keep oft_block_size, or set it to 0",
            keys=("oft_rank", "oft_block_size"),
        )
    if not any(options.blocks.values()):
        yield Problem(
            "oft_block_size: 0 without oft_rank leaves nothing to train",
            remedy="write oft_block_size: 32, or the number of blocks as oft_rank",
            keys=("oft_block_size", "oft_rank"),
        )
    yield from _peft.problems(METHOD, plan)
    if any(options.blocks.values()):
        layers = linear_layers(plan, options.oft_target)
        widths = {name: inputs for name, (_, inputs) in layers.items()}
        yield from refusals(lambda: check_blocks(plan, widths), options.size[0])
    yield from _tied(plan, [*options.oft_target, *(options.additional_target or ())])


def _tied(plan: Plan, names: Iterable[str]) -> list[Problem]:
    """One of the ends of a model whose ends are one weight, or new tokens, which train both."""
    layout = layout_of(plan)
    ends = {name.rpartition(".")[2] for name in names} & {*ENDS}
    if layout is None or not layout.tied or not (ends or new_tokens(plan)):
        return []
    error = shared_ends()
    keys = ("additional_target", "oft_target") if ends else ("add_tokens", "add_special_tokens")
    return [Problem(error.what, error.why, error.remedy, keys)]


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    options = plan.of(OftOptions)

    def turning(_: int, inputs: int) -> int:
        """Each block of b inputs is turned by a skew matrix of b·(b − 1)/2 numbers."""
        block = max(inputs // options.oft_rank, 1) if options.oft_rank else options.oft_block_size
        return inputs * (block - 1) // 2

    return _estimate.beside(plan, estimate, options.oft_target, turning)


@hookimpl
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Freeze the model and turn the inputs of layers by matrices that train, or take up those that exist.

    ``Change.modules`` are the names that the modules had before.

    Raises:
        ConfigError: a target that the model does not have, that peft cannot turn, or that the blocks do not divide.
        DataError: an adapter that does not fit the model.
    """
    return _peft.adapt(METHOD, run, model, _create, _form)


def _create(
    run: Run, model: PreTrainedModel, *, target_modules: Sequence[str], ensure_weight_tying: bool, **modules: Any
) -> PeftModel:
    from peft import OFTConfig, get_peft_model

    options = run.plan.of(OftOptions)
    if ensure_weight_tying:
        raise shared_ends(str(run.plan.sources.get("additional_target", "")))
    check_targets(run.plan, model, target_modules)
    config = OFTConfig(
        task_type="CAUSAL_LM",
        module_dropout=options.module_dropout,
        target_modules=list(target_modules),
        **options.blocks,
        **modules,
    )
    return get_peft_model(model, config)


def shared_ends(where: str = "") -> ConfigError:
    """The error for embeddings that are the head's matrix, and would train."""
    return ConfigError(
        "oft cannot train embeddings that share their weights with the head",
        where=where,
        why="peft keeps them one weight for LoRA only",
        remedy="set finetuning_type: lora, or leave additional_target and new tokens out",
    )


def check_targets(plan: Plan, model: PreTrainedModel, ends: Iterable[str]) -> None:
    """Refuse what peft cannot turn, or would turn in blocks of another size than was asked for.

    Raises:
        ConfigError: naming the layer.
    """
    from peft.tuners.oft.model import _get_tuner_layer_class

    widths = {}
    modules = dict(model.named_modules())
    for name in _targets.meant(modules, ends):
        module = modules[name]
        if _get_tuner_layer_class(module) is None:
            raise ConfigError(
                f"oft cannot act on {name}, which is a {type(module).__name__}",
                where=str(plan.sources.get("oft_target", "")),
                why="peft's OFT has layers for torch's linear and embedding layers, and for some that are quantised",
                remedy="set finetuning_type: lora, or name other modules in oft_target",
            )
        widths[name] = int(getattr(module, "in_features", 0) or getattr(module, "embedding_dim", 0))
    check_blocks(plan, widths)


def check_blocks(plan: Plan, widths: Mapping[str, int]) -> None:
    """Refuse blocks that do not divide the inputs of each layer.

    Raises:
        ConfigError: naming a layer, and what divides them all.
    """
    key, size = plan.of(OftOptions).size
    if uneven := [name for name, width in widths.items() if width % size]:
        common = gcd(*widths.values())
        divisors = [number for number in (256, 128, 64, 32, 16, 8, 4, 2) if common % number == 0]
        raise ConfigError(
            f"{key}: {size} does not divide the {widths[uneven[0]]} inputs of {uneven[0]}",
            where=str(plan.sources.get(key, "")),
            remedy=f"{key} can be {', '.join(map(str, divisors)) or common}",
        )


def _form(config: Any) -> str:
    return f"OFT with {config.r} blocks" if config.r else f"OFT in blocks of {config.oft_block_size}"


@hookimpl
def ft_save_model(run: Run, model: PeftModel, folder: Path) -> bool:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as peft reads them."""
    _peft.save(run, model, folder)
    return True
