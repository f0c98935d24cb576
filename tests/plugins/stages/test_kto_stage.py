"""Judged answers as a user trains on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ft.errors import DataError, Problems
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
ROWS = [
    {"instruction": f"What colour is stone {name}?", "output": f"It is {colour}." if good else "Who knows?", "ok": good}
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
    for good in (True, False)
]
MEASURES = {
    "loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
    "logps/rejected",
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    def write(rows: list[dict[str, Any]], name: str = "answers") -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        entry = {"columns": {"kto_tag": "ok"}}
        described = {each: {"file_name": f"{each}.json", **entry} for each in ("answers", "held_out")}
        (tmp_path / "dataset_info.json").write_text(json.dumps(described))

    return write


@pytest.fixture
def words(words_with: Callable[..., list[str]], write: Callable[..., None]) -> Callable[..., list[str]]:
    write(ROWS)
    write(ROWS[:6], "held_out")

    own = {
        "stage": "kto",
        "dataset": "answers",
        "eval_dataset": "held_out",
        "per_device_train_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
    }
    return lambda **changes: words_with(**own | changes)


def rows_of(run: Run, event: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == event]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_it_learns(execute, tuning):
    more = {"learning_rate": 1e-3, "lora_rank": None} if tuning == "full" else {}
    run = execute(finetuning_type=tuning, eval_on_start=True, **more)
    rows = rows_of(run)
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert rows[-1]["loss"] < 0.45
    assert all(row.keys() >= MEASURES for row in rows)
    assert {f"eval_{name}" for name in MEASURES} <= run.metrics.keys()
    assert run.metrics["eval_loss_before"] == pytest.approx(0.5, abs=1e-6)
    assert run.metrics["eval_loss"] < 0.45
    assert run.metrics["eval_rewards/accuracies"] > 0.5
    margin = run.metrics["eval_rewards/chosen"] - run.metrics["eval_rewards/rejected"]
    assert run.metrics["eval_rewards/margins"] == pytest.approx(margin)
    assert margin > 0


def test_the_evaluation_does_not_depend_on_its_batches(execute):
    first = execute(per_device_eval_batch_size=6)
    second = execute(per_device_eval_batch_size=4)
    for name in MEASURES:
        assert first.metrics[f"eval_{name}"] == pytest.approx(second.metrics[f"eval_{name}"], rel=1e-3, abs=1e-4), name


def test_weights_act(execute):
    plain, weighted = (rows_of(execute(max_steps=1, **keys))[0] for keys in ({}, {"kto_chosen_weight": 3.0}))
    assert weighted["loss"] / plain["loss"] == pytest.approx((3 * 4 + 4) / 8, rel=0.3)


def test_samples_grouped_by_length(execute):
    assert rows_of(execute(train_sampling_strategy="group_by_length", max_steps=2))


def test_a_pair_is_a_good_and_a_bad_answer(execute, tmp_path):
    pairs = [{"instruction": row["instruction"], "chosen": row["output"], "rejected": "No."} for row in ROWS[::2]]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    described = {"answers": {"file_name": "pairs.json", "ranking": True}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))
    run = execute(eval_dataset=None, max_steps=2)
    assert run.counts["train"].repaired == {"pairs were split into a desirable and an undesirable sample": len(pairs)}
    assert len(run.trainer.train_dataset) == 2 * len(pairs)


@pytest.mark.parametrize(("kind", "other"), [(True, "bad"), (False, "good")])
def test_answers_of_one_kind_are_refused(execute, write, kind, other):
    write([row for row in ROWS if row["ok"] is kind])
    with pytest.raises(DataError, match="every answer to learn from is marked") as caught:
        execute()
    assert f"without {other} answers" in caught.value.why
    assert "dataset=" not in caught.value.remedy


def test_evaluation_data_of_one_kind_is_measured_for_what_it_is(execute, write):
    write([row for row in ROWS if row["ok"]], "held_out")
    run = execute(max_steps=1)
    assert "eval_rewards/chosen" in run.metrics
    assert not {"eval_rewards/rejected", "eval_rewards/margins"} & run.metrics.keys()


def test_a_single_answer_to_evaluate_on_is_refused(execute, write):
    write(ROWS[:1], "held_out")
    with pytest.raises(DataError, match="a single answer") as caught:
        execute()
    assert caught.value.where == "command line: eval_dataset"
    with pytest.raises(DataError, match="a single answer") as caught:
        execute(eval_dataset=None, val_size=1)
    assert caught.value.where == "command line: val_size"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kto_chosen_weight": 0}, "kto_chosen_weight"),
        ({"pref_beta": -0.1}, "pref_beta"),
        ({"pref_loss": "ipo"}, "pref_loss"),
        ({"ref_model_adapters": "a"}, "ref_model"),
        ({"fsdp": "full_shard"}, "kto cannot be combined with fsdp"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(words, keys, says):
    with pytest.raises(Problems) as caught:
        make_plan(None, words(**keys))
    assert says in str(caught.value)


def test_the_same_model_may_be_the_reference_where_fsdp_needs_one(
    words: Callable[..., list[str]], tiny_model_dir: Path
) -> None:
    with pytest.raises(Problems, match="ref_model is the model that trains"):
        make_plan(None, words(ref_model=tiny_model_dir))
    with pytest.raises(Problems, match="fsdp needs GPUs") as caught:
        make_plan(None, words(ref_model=tiny_model_dir, fsdp="full_shard"))
    assert "reference" not in str(caught.value)
