"""Preference pairs as a user trains on them: what each loss starts from and does, and what is refused."""

from __future__ import annotations

import gc
import json
import math
import weakref
from typing import TYPE_CHECKING

import pytest

from ft.errors import DataError, Problems
from ft.planning import make_plan
from ft.training import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
PAIRS = [
    {"instruction": f"What colour is stone {name}?", "chosen": f"It is {colour}.", "rejected": "I do not know, sorry."}
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
]
MEASURES = {
    "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
    "logps/rejected",
}  # fmt: skip


@pytest.fixture
def words(words_with: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """A configuration as command line words."""
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    described = {"pairs": {"file_name": "pairs.json", "ranking": True}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))

    own = {
        "stage": "dpo",
        "dataset": "pairs",
        "eval_dataset": "pairs",
        "per_device_train_batch_size": 4,
        "max_steps": 5,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
    }
    return lambda **changes: words_with(**own | changes)


def curve(run: Run) -> list[float]:
    rows = [json.loads(line) for line in (run.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "train"]


FRESH = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 25.0, "kto_pair": 0.5, "orpo": None, "simpo": None}


def test_each_loss_learns_from_its_own_start_and_in_its_own_way(execute):
    curves = {}
    for loss, start in FRESH.items():
        more = {"pref_beta": 2.0} if loss == "simpo" else {}
        run = execute(pref_loss=loss, eval_on_start=True, **more)
        curves[loss] = curve(run)
        assert {f"eval_{name}" for name in MEASURES} <= run.metrics.keys()
        if start is not None:
            assert curves[loss][0] == pytest.approx(start, rel=1e-5), loss
            assert run.metrics["eval_loss_before"] == pytest.approx(start, rel=1e-5), loss
        assert run.metrics["eval_loss"] < run.metrics["eval_loss_before"], loss
        assert run.metrics["eval_rewards/margins"] > 0, loss
    relative = {tuple(round(value / values[0], 4) for value in values) for values in curves.values()}
    assert len(relative) == len(curves)


def test_the_best_model_may_be_chosen_by_accuracy(execute):
    run = execute(
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=3,
        metric_for_best_model="rewards/accuracies",
        greater_is_better=True,
    )
    assert run.trainer.state.best_metric == run.metrics["eval_rewards/accuracies"] > 0


def test_an_adapter_that_goes_on_is_its_own_reference(execute, tmp_path):
    execute(output_dir=tmp_path / "first")
    again = execute(adapter_name_or_path=tmp_path / "first", lora_rank=None, output_dir=tmp_path / "again")
    assert curve(again)[0] == pytest.approx(math.log(2), rel=1e-5)


def test_another_model_may_be_the_reference_and_is_gone_once_it_was_asked(execute, tmp_path, monkeypatch):
    execute(finetuning_type="full", learning_rate=1e-3, lora_rank=None, output_dir=tmp_path / "other")
    seen, of_model = [], Reference.of_model
    monkeypatch.setattr(Reference, "of_model", lambda model: (seen.append(weakref.ref(model)), of_model(model))[1])
    run = execute(ref_model=tmp_path / "other")
    assert curve(run)[0] > math.log(2) + 0.01
    gc.collect()
    assert [other() for other in seen] == [None]


@pytest.mark.parametrize(("loss", "has_one"), [("sigmoid", True), ("orpo", False), ("simpo", False)])
def test_the_reference_is_asked_once_or_not_at_all(execute, loss, has_one):
    run = execute(pref_loss=loss, max_steps=1)
    assert any("reference" in line for line in run.decisions) is has_one
    assert ("reference" in run.trainer.train_dataset.column_names) is has_one
    assert ("reference" in run.trainer.eval_dataset.column_names) is has_one
    assert run.trainer.reference is None


def test_a_stream_asks_the_reference_in_each_step(execute):
    """With all pairs in each step, their order does not matter."""
    whole = {"per_device_train_batch_size": len(PAIRS), "dtype": "float32"}
    known = curve(execute(**whole))
    run = execute(streaming=True, **whole)
    assert run.trainer.reference is not None
    assert curve(run) == pytest.approx(known, rel=1e-4)


def test_dropout_is_not_the_references(execute):
    losses = [curve(execute(lora_dropout=share, max_steps=2)) for share in (0.0, 0.5)]
    assert losses[0][0] == losses[1][0] == pytest.approx(math.log(2), rel=1e-5)  # B is zero: dropout acts from step 2
    assert losses[0][1] != losses[1][1]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"pref_loss": "sigmoyd"}, "pref_loss"),
        ({"pref_beta": 0}, "pref_beta"),
        ({"pref_beta": "inf"}, "pref_beta"),
        ({"dpo_label_smoothing": 0.5}, "dpo_label_smoothing"),
        ({"dpo_label_smoothing": 0.1, "pref_loss": "hinge"}, "dpo_label_smoothing has no effect"),
        ({"simpo_gamma": 1.0}, "simpo_gamma has no effect"),
        ({"pref_bco_weight": 0.1, "pref_loss": "orpo"}, "pref_bco_weight has no effect"),
        ({"ref_model": "other", "pref_loss": "simpo"}, "ref_model has no effect"),
        ({"ld_alpha": 1.5}, "ld_alpha"),
        ({"pref_ftx": -1}, "pref_ftx"),
        ({"kto_chosen_weight": 2.0}, "kto_chosen_weight"),
        ({"fsdp": "full_shard", "streaming": "true"}, "dpo on a stream cannot be combined with fsdp"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(words, keys, says):
    with pytest.raises(Problems) as caught:
        make_plan(None, words(**keys))
    assert says in str(caught.value)


def test_the_model_itself_as_reference_is_refused_unless_an_adapter_goes_on(words, tiny_model_dir):
    with pytest.raises(Problems, match="the model that trains"):
        make_plan(None, words(ref_model=tiny_model_dir))
    make_plan(None, words(ref_model=tiny_model_dir, ref_model_adapters="earlier"))


def test_neutral_values_of_keys_without_effect_are_accepted(words):
    plan, _ = make_plan(None, words(pref_loss="hinge", dpo_label_smoothing=0.0, simpo_gamma=0.5, pref_bco_weight=0.0))
    assert plan.get("pref_loss") == "hinge"


def test_old_names_of_keys_are_understood(words):
    plan, _ = make_plan(None, words(dpo_loss="ipo", dpo_beta=0.2, dpo_ftx=0.3))
    assert (plan.get("pref_loss"), plan.get("pref_beta"), plan.get("pref_ftx")) == ("ipo", 0.2, 0.3)


def test_data_without_pairs_is_refused(execute, tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([{**PAIRS[0], "rejected": PAIRS[0]["chosen"]}]))
    with pytest.raises(DataError, match="no training samples are left") as caught:
        execute()
    assert "equal" in caught.value.why
    (tmp_path / "pairs.json").write_text(json.dumps([{"instruction": "a?", "chosen": "b"}]))
    with pytest.raises(DataError):
        execute()
