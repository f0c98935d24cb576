"""Where the value head of a policy begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import nn

from ft.training import attach_value_head, load_value_head
from ft.training.values import FILE, NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft.training import ValueHead
    from ft_hookspecs import Plan, Run


def begin_value_head(run: Run) -> ValueHead:
    """A value head for the policy: its own of an earlier run, or the reward model's, where one fits; else zero.

    Raises:
        DataError: a file of a value head cannot be read.
    """
    assert run.model is not None
    head = attach_value_head(run.model)
    nn.init.zeros_(head.summary.weight)
    for folder in earlier_heads(run.plan):
        if _width(folder) == head.summary.in_features:
            run.decide(f"the value head begins as that of {folder}")
            return load_value_head(run.model, folder)
    run.decide("the value head begins at zero: there is none of this width to begin from")
    return head


def earlier_heads(plan: Plan) -> Iterator[Path]:
    """The folders of the policy's last adapter and of the reward model, if they hold a value head."""
    names = [plan.get("adapter_name_or_path")]
    if plan.get("reward_model_type") != "api":
        names.append(plan.get("reward_model_adapters") or plan.get("reward_model"))
    for name in filter(None, names):
        folder = Path(name.split(",")[-1].strip()).expanduser()
        if (folder / FILE).is_file():
            yield folder


def _width(folder: Path) -> int:
    with safe_open(folder / FILE, framework="pt") as file:
        shape: list[int] = file.get_slice(f"{NAME}.summary.weight").get_shape()
    return shape[-1]
