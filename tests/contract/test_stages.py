"""The contract of stages, over all that ship here; full and freeze take longer and are run on demand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft.plugins import find_plugins
from ft.testing.contracts import StageContract
from ft.testing.contracts.stages import CHATS

TEXT = [{"text": f"{row['instruction']} {row['output']} " * 3} for row in CHATS]
PAIRS = [
    {"prompt": row["instruction"], "chosen": row["output"], "rejected": f"I do not know. {row['instruction']}"}
    for row in CHATS
]
JUDGED = [
    {**row, "output": (row if good else other)["output"], "kto_tag": good}
    for row, other, good in zip(CHATS[:6], [*CHATS[4:], *CHATS[4:]], [True, False] * 3, strict=False)
]
"""Three good and three bad answers, so that the checkpoint to resume is within a second epoch of three steps."""

FULL = {"finetuning_type": "full"}
FREEZE = {"finetuning_type": "freeze", "freeze_trainable_layers": 1}


class TestPt(StageContract):
    plugin, rows, keys = "pt", TEXT, {"cutoff_len": 48}


class TestSft(StageContract):
    plugin = "sft"


class TestRm(StageContract):
    plugin, rows = "rm", PAIRS
    keys = {"learning_rate": 1e-3, "dtype": "float32"}  # a score has no mean to round away in bf16


class TestDpo(StageContract):
    plugin, rows = "dpo", PAIRS
    keys = {"dtype": "float32"}  # sums of log-probabilities: bf16 rounds more than 1e-3 of them away


class TestKto(StageContract):
    plugin, rows, keys = "kto", JUDGED, {"dtype": "float32"}


class TestPpo(StageContract):
    plugin, metric = "ppo", "value_loss"
    keys = {
        "plugins": Path(__file__).with_name("letters.py"),
        "learning_rate": 1e-3,
        "ppo_kl_coef": 0.01,
        "ppo_epochs": 3,  # the checkpoint to resume is in the middle of a rollout
        "max_new_tokens": 8,
        "do_sample": False,  # draws depend on the process
        "dtype": "float32",  # else rounding decides between two likeliest tokens
    }


CLASSES = (TestPt, TestSft, TestRm, TestDpo, TestKto, TestPpo)
DRAWN = {"grpo", "rloo"}
"""Stages whose answers are always drawn, so that no other cut of a step has the same losses; see test_group.py."""

for each in CLASSES:
    for tuning in (FULL, FREEZE):
        name = each.__name__ + tuning["finetuning_type"].title()
        globals()[name] = pytest.mark.slow(type(name, (each,), {"tuning": tuning}))


def test_every_stage_that_ships_has_its_class():
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == ("stages", "ft-framework")}
    assert shipped == {each.plugin for each in CLASSES} | DRAWN
