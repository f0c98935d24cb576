"""PPO as a user runs it: sft → rm → ppo from saved files, what is told and written, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft.errors import Problems
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

PAIRS = [
    {"instruction": f"What is stone {name}?", "chosen": f"{name} is grey.", "rejected": f"I do not know {name}."}
    for name in "abcdefgh"
]
REWARD = """
from ft_hookspecs import hookimpl

ft_api_version = 1


@hookimpl
def ft_reward(answers):
    return [float(len(answer)) for answer in answers]
"""


@pytest.fixture
def words(words_with: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """A configuration as command line words."""
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pairs": {"file_name": "pairs.json", "ranking": True}}))
    (tmp_path / "length.py").write_text(REWARD)

    own = {
        "stage": "ppo",
        "dataset": "pairs",
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "max_new_tokens": 6,
        "dtype": "float32",
    }
    return lambda **changes: words_with(**own | changes)


def test_from_sft_and_a_reward_model_by_their_files(execute: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text(json.dumps([{"instruction": "Stone?", "output": "Grey."}] * 4))
    no_answers = {"max_new_tokens": None}
    execute(stage="sft", dataset=tmp_path / "chats.json", output_dir=tmp_path / "sft", **no_answers)
    execute(stage="rm", output_dir=tmp_path / "rm", **no_answers)
    run = execute(
        adapter_name_or_path=tmp_path / "sft",
        reward_model=tmp_path / "rm",
        eval_dataset="pairs",
        eval_on_start="true",
        ppo_epochs=2,
    )
    assert f"the value head starts as that of {tmp_path / 'rm'}" in run.decisions
    assert "rollouts draw with temperature 1, top_p 1, top_k 0" in run.decisions
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    first, final = next(row for row in rows if row["event"] == "train"), rows[-1]
    assert first["kl"] == 0  # the reference is the policy with the sft adapter
    assert final["eval_kl_before"] == 0
    for name in ("eval_reward", "eval_kl", "eval_response_length"):
        assert {name, f"{name}_before"} <= final.keys()
    begun, trained = (load_file(tmp_path / name / "value_head.safetensors") for name in ("rm", "out"))
    assert trained.keys() == begun.keys() == {"v_head.summary.weight", "v_head.summary.bias"}
    assert not torch.equal(trained["v_head.summary.weight"], begun["v_head.summary.weight"])
    assert not any("v_head" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))


def test_a_value_head_of_another_width_is_left_alone(execute: Callable[..., Run], tmp_path: Path) -> None:
    run = execute(plugins=tmp_path / "length.py", temperature=0.7, length_penalty=2, max_steps=1)
    assert "command line: length_penalty: length_penalty has no effect: num_beams is 1" in run.plan.notes
    assert "the value head starts at zero: there is no saved one of this width" in run.decisions
    assert "rollouts draw with temperature 0.7, top_p 1, top_k 0" in run.decisions
    head = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    save_file(head, tmp_path / "out" / "value_head.safetensors")
    changes = {"adapter_name_or_path": tmp_path / "out", "output_dir": tmp_path / "next", "max_steps": 1}
    run = execute(plugins=tmp_path / "length.py", **changes)
    assert "the value head starts at zero: there is no saved one of this width" in run.decisions


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plugins": None}, "nothing gives a reward"),
        ({"num_beams": 2}, "num_beams: 2 cannot be used with ppo"),
        ({"fsdp": "full_shard"}, "fsdp: full_shard cannot be used with ppo"),
        ({"streaming": "true"}, "streaming: True cannot be used with ppo"),
        ({"auto_find_batch_size": "true"}, "auto_find_batch_size: True cannot be used with ppo"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length cannot be used with ppo"),
        ({"skip_special_tokens": "false"}, "skip_special_tokens: False cannot be used with ppo"),
        ({"packing": "true"}, "packing"),
        ({"predict_with_generate": "true"}, "predict_with_generate"),
        ({"load_best_model_at_end": "true"}, "metric_for_best_model: reward"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau"},
            "greater_is_better: true, and lr_scheduler_kwargs: {mode: max}",
        ),
        ({"max_new_tokens": 64, "cutoff_len": 64}, "leaves no room for a prompt"),
        ({"ppo_epochs": 0}, "ppo_epochs"),
        ({"ref_model_adapters": "somewhere"}, "ref_model"),
    ],
)
def test_what_cannot_be_is_said_while_planning(
    words: Callable[..., list[str]], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(Problems) as caught:
        make_plan(None, words(**{"plugins": tmp_path / "length.py", **changes}))
    assert says in str(caught.value)
