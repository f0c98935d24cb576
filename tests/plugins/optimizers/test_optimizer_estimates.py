"""What the estimate says of an optimizer's state is what its tensors take after a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.estimate import estimate_memory
from ft.planning import make_plan
from ft.testing import tiny_model
from ft_hookspecs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDS = torch.arange(5, 29)[None]
GALORE = ("use_galore=true", "galore_rank=8")


def tensors(value: Any, depth: int = 6) -> Iterator[torch.Tensor]:
    """Those in a state, in its projectors and in the state inside BAdam's."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for one in inner:
            yield from tensors(one, depth - 1)


@pytest.fixture
def states(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """The bytes of state that are estimated, and those there are after a step."""

    def measure(*words: str) -> tuple[float, int]:
        (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
        usual = (f"model_name_or_path={tiny_model_dir}", f"dataset={tmp_path / 'rows.json'}", "use_cpu=true")
        plan, plugins = make_plan(None, (*usual, f"output_dir={tmp_path / 'out'}", "finetuning_type=full", *words))
        found = estimate_memory(plan, plugins)
        model = tiny_model()
        run = Run(plan, model=model)
        optimizer = plugins.hook.ft_create_optimizer(run=run, model=model)
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        kept = {each.data_ptr(): each.nbytes for each in tensors(optimizer.state_dict()) if each.numel() > 1}
        return (found.trained or 0) * (found.state_bytes or 0), sum(kept.values())

    return measure


@pytest.mark.parametrize(
    "words",
    [
        GALORE,
        (*GALORE, "galore_target=mlp", "galore_proj_type=reverse_std"),
        (*GALORE, "galore_proj_type=full"),
        (*GALORE, "galore_proj_type=left"),
        ("use_apollo=true", "apollo_rank=4"),
        ("use_muon=true",),
        ("use_badam=true",),
        ("use_adam_mini=true",),
    ],
    ids=" ".join,
)
def test_states_are_as_large_as_is_said(states: Any, words: tuple[str, ...]) -> None:
    said, kept = states(*words)
    assert said == pytest.approx(kept, rel=0.03)
