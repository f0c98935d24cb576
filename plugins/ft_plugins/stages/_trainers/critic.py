"""Where the value head of a policy begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from torch import nn

from ft.files import VALUE_HEAD
from ft.training import attach_value_head, load_value_head
from ft.training.values import NAME
from ft_plugins.stages._heads import own_heads
from ft_plugins.stages._rewards import RewardOptions
from ft_plugins.stages._rewards.models import head_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ft.training import ValueHead
    from ft_hookspecs import Run


def begin_value_head(run: Run) -> ValueHead:
    """A value head for the policy: its own of an earlier run, or the reward model's, where one fits; else zero.

    Raises:
        DataError: a file of a value head cannot be read.
    """
    assert run.model is not None
    head = attach_value_head(run.model)
    nn.init.zeros_(head.summary.weight)
    for folder in earlier_heads(run):
        if _fits(folder, head):
            run.decide(f"the value head starts as that of {folder}")
            return load_value_head(run.model, folder)
    run.decide("the value head starts at zero: there is no saved one of this width")
    return head


def earlier_heads(run: Run) -> Iterator[Path]:
    """The folders that hold a value head to begin from: the policy's own, then the reward model's."""
    yield from own_heads(run)
    options = run.plan.of(RewardOptions)
    if options.reward_model is not None and options.reward_model_type != "api":
        yield head_folder(run, options)


def _fits(folder: Path, head: ValueHead) -> bool:
    """Whether the head of a folder is as wide; also for a damaged one, of which loading says what is wrong."""
    try:
        with safe_open(folder / VALUE_HEAD, framework="pt") as file:
            return bool(file.get_slice(f"{NAME}.summary.weight").get_shape()[-1] == head.summary.in_features)
    except SafetensorError:
        return True
