"""What every stage must do, on one table: learn, survive SIGKILL bit for bit, and not care how a step is cut up.

A row of the table is what a user would write: a stage, its data, and the keys without which it cannot run.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.plugins import find_plugins
from ft.testing import Runs

if TYPE_CHECKING:
    from collections.abc import Mapping

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
STONES = [
    (f"What is the colour of stone {name}?", f"Stone {name} is {colour}.")
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
]


def text() -> list[dict[str, Any]]:
    return [{"text": f"{question} {answer} " * 3} for question, answer in STONES]


def chats() -> list[dict[str, Any]]:
    return [{"instruction": question, "output": answer} for question, answer in STONES]


def pairs() -> list[dict[str, Any]]:
    return [
        {"prompt": question, "chosen": answer, "rejected": f"I do not know. {question}"} for question, answer in STONES
    ]


def judged() -> list[dict[str, Any]]:
    """Three good and three bad answers, so that the checkpoint to resume is within a second epoch of three steps."""
    answers = zip(STONES[:6], [answer for _, answer in STONES[4:]] * 2, (True, False) * 3, strict=False)
    return [{"instruction": q, "output": own if good else other, "kto_tag": good} for (q, own), other, good in answers]


@dataclass(frozen=True)
class Stage:
    """A stage's rows of data, its own keys, and what is known of its losses."""

    rows: list[dict[str, Any]]
    keys: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 6
    metric: str = "loss"
    falls: bool = True
    """Whether ``metric`` falls when it learns; else it rises."""


LETTERS = {
    "plugins": Path(__file__).with_name("letters.py"),
    "learning_rate": 1e-3,
    "ppo_kl_coef": 0.01,
    "ppo_epochs": 3,  # the checkpoint to resume is in the middle of a rollout
    "max_new_tokens": 8,
    "do_sample": False,  # draws depend on the process
    "dtype": "float32",  # else rounding decides between two likeliest tokens
}
STAGES = {
    "dpo": Stage(pairs(), {"dtype": "float32"}),  # sums of log-probabilities: bf16 rounds more than 1e-3 of them away
    "kto": Stage(judged(), {"dtype": "float32"}),
    "ppo": Stage(chats(), LETTERS, metric="value_loss"),
    "pt": Stage(text(), {"cutoff_len": 48}),
    "rm": Stage(pairs(), {"learning_rate": 1e-3, "dtype": "float32"}),  # a score has no mean to round away in bf16
    "sft": Stage(chats()),
}
DRAWN = {"grpo", "rloo"}
"""Stages whose answers are always drawn, so that no other cut of a step has the same losses; see test_group.py."""

TUNINGS = {"lora": {"lora_rank": 4}, "full": {}, "freeze": {"freeze_trainable_layers": 1}}


@pytest.fixture(scope="session")
def runs(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    always = {
        "model_name_or_path": tiny_model_dir,
        "cache_dir": tmp_path_factory.mktemp("cache"),
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
    }
    return Runs(always)


@pytest.fixture
def keys(request, tmp_path):
    """The configuration of one cell of stage × tuning."""
    stage, tuning = STAGES[request.param[0]], request.param[1]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(stage.rows))
    own = {"stage": request.param[0], "finetuning_type": tuning, "dataset": data, "max_steps": stage.steps}
    return {**own, **TUNINGS[tuning], **stage.keys}


def cells(tunings: Mapping[str, bool]) -> Any:
    """Every stage with each tuning; those that are false only on demand."""
    table = [
        pytest.param((stage, tuning), marks=() if always else pytest.mark.slow, id=f"{stage}-{tuning}")
        for stage in STAGES
        for tuning, always in tunings.items()
    ]
    return pytest.mark.parametrize("keys", table, indirect=True)


def test_every_stage_that_ships_is_in_the_table():
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == ("stages", "ft-framework")}
    assert shipped == STAGES.keys() | DRAWN


@cells({"lora": True, "full": False, "freeze": False})
def test_killed_and_resumed_it_is_bit_identical(keys, runs, tmp_path):
    stage = STAGES[keys["stage"]]
    whole = runs({**keys, "output_dir": tmp_path / "whole"})
    assert whole.exits == (0,), whole.output
    curve = list(whole.series(stage.metric).values())
    assert len(curve) == stage.steps
    assert (curve[-1] < curve[0]) is stage.falls, curve
    killed = runs({**keys, "output_dir": tmp_path / "killed"}, kill_after=stage.steps - 1)
    assert killed.exits == (-signal.SIGKILL,), killed.output
    resumed = runs({**keys, "output_dir": tmp_path / "killed", "resume_from_checkpoint": True})
    assert resumed.exits == (0,), resumed.output
    assert resumed.series("loss") == whole.series("loss")
    tensors, others = whole.tensors(), resumed.tensors()
    assert tensors.keys() == others.keys() != set()
    assert [name for name, tensor in others.items() if not torch.equal(tensor, tensors[name])] == []


CUTS = {
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    "padded": {"attention": "padded"},
}


@cells({"lora": True, "full": False, "freeze": False})
def test_how_a_step_is_cut_up_does_not_change_it(keys, runs, tmp_path):
    plain = runs({**keys, "output_dir": tmp_path / "plain"})
    losses = plain.series("loss")
    assert len(losses) == STAGES[keys["stage"]].steps, plain.output
    for name, cut in CUTS.items():
        other = runs({**keys, **cut, "output_dir": tmp_path / name})
        assert other.series("loss") == pytest.approx(losses, rel=1e-3, abs=1e-5), (name, other.output)


@pytest.mark.slow
@cells({"lora": True})
def test_two_processes_equal_one(keys, runs, tmp_path):
    one = runs({**keys, "output_dir": tmp_path / "one"})
    two = runs({**keys, "output_dir": tmp_path / "two", "per_device_train_batch_size": 1}, processes=2)
    assert two.exits == (0, 0), two.output
    assert two.series("loss") == pytest.approx(one.series("loss"), rel=1e-3, abs=1e-5)
