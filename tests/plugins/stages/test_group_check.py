"""What grpo and rloo refuse while planning."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ft.errors import FtError
from ft.planning import make_plan
from ft_plugins.stages._group import UNHEEDED

if TYPE_CHECKING:
    from pathlib import Path

REWARD = """
from ft_hookspecs import hookimpl

@hookimpl
def ft_reward(run, prompts, answers):
    return [0.0 for _ in answers]
"""


@pytest.fixture
def plan(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """Plans a run with further keys."""
    data, reward = tmp_path / "data.json", tmp_path / "reward.py"
    data.write_text(json.dumps([{"instruction": "Why?", "output": "So."}] * 8))
    reward.write_text(REWARD)

    def make(stage: str = "grpo", **keys: Any) -> Any:
        given = {
            "model_name_or_path": tiny_model_dir,
            "stage": stage,
            "finetuning_type": "lora",
            "dataset": data,
            "plugins": reward,
            "output_dir": tmp_path / "out",
            "use_cpu": True,
            **keys,
        }
        return make_plan(None, [f"{key}={value}" for key, value in given.items() if value is not None])

    return make


@pytest.fixture
def refusal(plan: Any) -> Any:
    """The text of the error that planning ends with."""

    def refuse(*args: Any, **keys: Any) -> str:
        with pytest.raises(FtError) as error:
            plan(*args, **keys)
        return str(error.value)

    return refuse


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_a_plan_stands(plan: Any, stage: str) -> None:
    assert plan(stage)[0].get("num_generations") == {"grpo": 8, "rloo": 2}[stage]


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_one_answer_has_nothing_to_be_judged_against(refusal: Any, stage: str) -> None:
    said = refusal(stage, num_generations=1)
    assert "num_generations" in said
    assert "2" in said


def test_a_batch_of_parts_of_groups_names_the_nearest_that_fit(refusal: Any) -> None:
    said = refusal(per_device_train_batch_size=6, num_generations=4)
    assert "6 answers cannot be divided into groups of 4" in said
    assert "per_device_train_batch_size to 4 or 8" in said
    assert "num_generations to 3" in said


def test_accumulated_batches_count_together(plan: Any, refusal: Any) -> None:
    plan(per_device_train_batch_size=6, num_generations=4, gradient_accumulation_steps=2)
    said = refusal(per_device_train_batch_size=6, num_generations=4, steps_per_generation=3)
    assert "per_device_train_batch_size 6 × steps_per_generation 3 must be a multiple of num_generations" in said


def test_processes_count_together(plan: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"per_device_train_batch_size": 2, "num_generations": 4}
    assert "2 answers" in refusal(**keys)
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan(**keys)


def test_batches_of_evaluation_hold_whole_groups_too(plan: Any, refusal: Any) -> None:
    keys = {"per_device_train_batch_size": 4, "num_generations": 4, "per_device_eval_batch_size": 6}
    plan(**keys)
    assert "per_device_eval_batch_size" in refusal(**keys, val_size=2)
    plan(**keys, val_size=2, num_generations_eval=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_sample", False),
        ("num_beams", 2),
        ("max_length", 100),
        ("skip_special_tokens", False),
        ("attention", "packed"),
        ("train_sampling_strategy", "group_by_length"),
        ("auto_find_batch_size", True),
    ],
)
def test_what_would_be_ignored_is_refused(refusal: Any, key: str, value: Any) -> None:
    said = refusal(**{key: value})
    assert f"{key}: {value} cannot be used with grpo" in said
    assert UNHEEDED[key][1] in said


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
@pytest.mark.parametrize(
    ("keys", "more"),
    [
        ({"load_best_model_at_end": True, "save_strategy": "epoch"}, {}),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, {}),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {"lr_scheduler_kwargs": '{"mode": "max"}'}),
    ],
)
def test_the_loss_does_not_tell_what_is_best(
    refusal: Any, plan: Any, stage: str, keys: dict[str, Any], more: dict[str, Any]
) -> None:
    keys = {"val_size": 2, "eval_strategy": "epoch", **keys}
    assert "metric_for_best_model: reward and greater_is_better: true" in refusal(stage, **keys)
    plan(stage, **keys | {"metric_for_best_model": "reward"} | more)


def test_answers_leave_room_for_a_prompt(refusal: Any) -> None:
    said = refusal(max_new_tokens=64, cutoff_len=64)
    assert "max_new_tokens 64 leaves no room for a prompt in cutoff_len 64" in said
    assert "where: command line: max_new_tokens" in said


def test_without_a_reward_there_is_nothing_to_learn(refusal: Any) -> None:
    assert "reward" in refusal(plugins=None)


def test_trl_missing_is_said_with_what_to_type(refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    assert "pip install 'ft-framework[trl]'" in refusal()
