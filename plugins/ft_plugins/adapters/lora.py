"""LoRA: low-rank updates of frozen weights (Hu et al. 2021, arXiv:2106.09685), with rsLoRA, DoRA, PiSSA and LoRA+."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins._saved_adapters import RESIDUAL
from ft_plugins.adapters import _estimate, _loraplus, _peft, _pissa

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run


class LoraOptions(_peft.PeftOptions):
    """Which weights get an update, of what form, and how fast it learns."""

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
    use_rslora: bool = Field(default=False, description="Scale by alpha / √rank (rank-stabilised LoRA).")
    use_dora: bool = Field(default=False, description="Train direction and magnitude separately (DoRA).")
    pissa_init: bool = Field(
        default=False, description="Start from the principal part of each weight, which is taken out of it (PiSSA)."
    )
    pissa_iter: int = Field(
        default=16, ge=-1, description="Iterations of the fast singular value decomposition; -1: the exact one."
    )
    pissa_convert: bool = Field(
        default=False,
        description="Save an ordinary LoRA of twice the rank, for the original model. "
        "Else what PiSSA left of the base is saved too.",
    )
    loraplus_lr_ratio: float | None = Field(
        default=None, gt=0, description="Learning rate of the B matrices, as a multiple of `learning_rate` (LoRA+)."
    )
    loraplus_lr_embedding: float = Field(
        default=_loraplus.EMBEDDING_RATE,
        ge=0,
        description="Learning rate of updates of embeddings with `loraplus_lr_ratio`.",
    )

    @property
    def alpha(self) -> int:
        """``lora_alpha`` or its default."""
        return self.lora_alpha or 2 * self.lora_rank


METHOD: Final = _peft.Method(
    "LORA",
    ".lora_",
    "lora_target",
    {
        "lora_rank": "r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "use_rslora": "use_rslora",
        "use_dora": "use_dora",
    },
)


@hookimpl
def ft_options() -> type[PluginOptions]:
    return LoraOptions


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Adapters to start from, and the keys of PiSSA and LoRA+, that the other keys contradict."""
    yield from _peft.problems(METHOD, plan)
    yield from _pissa.problems(plan)
    yield from _loraplus.problems(plan)


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    options = plan.of(LoraOptions)

    def narrow(outputs: int, inputs: int) -> int:
        """A and B, and DoRA's magnitudes."""
        return options.lora_rank * (outputs + inputs) + (outputs if options.use_dora else 0)

    return _estimate.beside(plan, estimate, options.lora_target, narrow, dropout=options.lora_dropout)


@hookimpl
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Freeze the model and add an update that trains, or take up one that exists.

    ``Change.modules`` are the names that the modules had before.

    Raises:
        ConfigError: a target that the model does not have.
        DataError: an adapter that does not fit it.
    """
    options = run.plan.of(LoraOptions)
    change = _peft.adapt(METHOD, run, model, _create, lambda config: _form(config, pissa=options.pissa_init))
    return _pissa.settled(run, change) if options.pissa_init else change


def _create(run: Run, model: PreTrainedModel, **modules: Any) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    options = run.plan.of(LoraOptions)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        lora_alpha=options.alpha,
        lora_dropout=options.lora_dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        **modules,
    )
    return _pissa.create(run, model, config) if options.pissa_init else get_peft_model(model, config)


def _form(config: LoraConfig, *, pissa: bool) -> str:
    variants = {"PiSSA": pissa, "rsLoRA": config.use_rslora, "DoRA": config.use_dora}
    name = " + ".join(name for name, used in variants.items() if used) or "LoRA"
    return f"{name} rank {config.r}, alpha {config.lora_alpha}"


@hookimpl
def ft_parameter_groups(run: Run, model: nn.Module) -> list[dict[str, Any]] | None:
    """Groups with LoRA+'s learning rates; ``None`` without them."""
    return _loraplus.groups(run.plan, model)


@hookimpl
def ft_save_model(run: Run, model: PeftModel, folder: Path) -> bool:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as peft reads them; PiSSA's base if need be."""
    options = run.plan.of(LoraOptions)
    if options.pissa_init and not options.pissa_convert:
        run.decide(f"PiSSA: the adapter belongs on {folder / RESIDUAL}, which is saved too, not on the original model")
        _pissa.save(run, model, folder)
    else:
        _peft.save(run, model, folder)
    return True
