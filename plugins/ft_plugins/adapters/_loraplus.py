"""LoRA+ (Hayou et al. 2024, arXiv:2402.12354): the B matrices learn faster than the A matrices."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft_hookspecs import Plan

EMBEDDING_RATE: Final = 1e-6


def problems(plan: Plan) -> Iterable[Problem]:
    """The rate of embeddings where no rates differ."""
    if plan.get("loraplus_lr_ratio") is None and plan.get("loraplus_lr_embedding") != EMBEDDING_RATE:
        yield Problem(
            "loraplus_lr_embedding without loraplus_lr_ratio",
            why="all that trains has the same learning rate",
            remedy="set loraplus_lr_ratio (16 is the paper's), or take it out",
            keys=("loraplus_lr_embedding",),
        )


def groups(plan: Plan, model: nn.Module) -> list[dict[str, Any]] | None:
    """What trains, by learning rate and weight decay: as transformers decides it, biases and norms do not decay."""
    from transformers import Trainer

    ratio = plan.get("loraplus_lr_ratio")
    if ratio is None:
        return None
    rate, decay = plan.get("learning_rate"), plan.get("weight_decay", 0.0)
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    found: dict[tuple[float, float], list[Any]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = plan.get("loraplus_lr_embedding") if "lora_embedding_" in name else rate
            own = rate * ratio if ".lora_B." in name else own
            found[own, decay if name in decaying else 0.0].append(parameter)
    return [{"params": several, "lr": lr, "weight_decay": decay} for (lr, decay), several in found.items()]
