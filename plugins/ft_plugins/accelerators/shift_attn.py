"""Shifted sparse attention (S²-Attn) while training on long samples: Chen et al. 2023, "LongLoRA" (arXiv:2309.12307).

The one accelerator whose mathematics are not those of the model: it is trained on groups and used in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.errors import ConfigError
from ft.options import DataOptions
from ft_hookspecs import Change, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ft_hookspecs import Plan, Run

ft_api_version = 1

GROUPS: Final = 4
"""Groups in a sample of ``cutoff_len`` tokens."""
COMPARING: Final = ("dpo", "kto", "ppo", "grpo", "rloo")
"""Stages that compare the model that trains with itself out of training, where it attends in full."""


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Groups that are none, and what would see the difference between groups and the whole."""
    if group_size(plan) < 2:
        yield Problem(
            f"shift_attn has no groups in cutoff_len: {plan.of(DataOptions).cutoff_len}",
            why="a group is a quarter of it, and half of the heads are shifted by half a group",
            remedy="raise cutoff_len, or take shift_attn out",
            keys=("cutoff_len", "shift_attn"),
        )
    if (stage := plan.get("stage")) in COMPARING:
        yield Problem(
            f"shift_attn cannot be combined with stage: {stage}",
            why="it compares the model with a reference or with its own answers, which attend in full",
            remedy="take shift_attn out, or use it in stage: pt or sft before",
            keys=("shift_attn", "stage"),
        )
    if plan.get("flash_attn") == "disabled":
        yield Problem(
            "shift_attn cannot be combined with flash_attn: disabled",
            why="eager attention sees only a mask, not where sequences begin",
            remedy="take flash_attn out, or set it to sdpa",
            keys=("shift_attn", "flash_attn"),
        )


@hookimpl(trylast=True)  # after whatever chooses the kernel that computes each half
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Cut the attention of training into groups.

    Raises:
        ConfigError: the model's attention cannot be replaced.
    """
    from ft.training import unwrap
    from ft_plugins.accelerators._layers.shifted import use_shifted_attention

    group, base = group_size(run.plan), unwrap(model)
    if not getattr(base, "_supports_attention_backend", False):
        raise ConfigError(
            f"shift_attn cannot change the attention of {type(base).__name__}",
            where=str(run.plan.sources.get("shift_attn", "")),
            why="it does not go through transformers' interface",
            remedy="take shift_attn out",
        )
    use_shifted_attention(model, group)
    summary = f"training attends within groups of {group} tokens, for half of the heads shifted by {group // 2}"
    run.decide(f"shift_attn: samples of up to {group} tokens have plain attention; evaluation and generation have too")
    return Change(model, summary, details={"group": group})


def group_size(plan: Plan) -> int:
    """Tokens of a group."""
    return plan.of(DataOptions).cutoff_len // GROUPS
