"""The data of the stage examples, and its configurations carried out on a tiny model, one after the other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest

from ft.lifecycle import run
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
STAGES = ROOT / "examples" / "stages"
SPLITS = ("", "_held_out")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (STAGES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def sentences(texts: list[str]) -> set[str]:
    return {sentence for text in texts for sentence in re.split(r"(?<=\.) ", text)}


# ---- the data -----------------------------------------------------------------------------------------------------


def test_the_script_writes_what_is_there(tmp_path: Path) -> None:
    for path in (*STAGES.glob("*.toml"), STAGES / "make_data.py"):
        shutil.copy(path, tmp_path)
    subprocess.run([sys.executable, tmp_path / "make_data.py"], check=True)
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert written == {path.name: path.read_bytes() for path in STAGES.glob("*.jsonl")}


def test_held_out_paragraphs_share_no_sentence_with_those_read() -> None:
    read, held_out = ([row["text"] for row in rows(f"island{split}")] for split in SPLITS)
    assert len(set(read)) == len(read) >= 100
    assert len(set(held_out)) == len(held_out) >= 20
    assert not sentences(read) & sentences(held_out)


def test_held_out_paragraphs_are_about_what_was_read() -> None:
    world = tomllib.loads((STAGES / "island.toml").read_text(encoding="utf-8"))
    names = [row.split(" | ")[0] for kind in world.values() for row in kind["rows"].split("\n") if row]
    for split in SPLITS:
        text = " ".join(row["text"] for row in rows(f"island{split}"))
        assert [name for name in names if name not in text] == []


@pytest.mark.parametrize(("split", "pairs", "prompts"), [("", 300, 120), ("_held_out", 60, 32)])
def test_no_question_stands_twice(split: str, pairs: int, prompts: int) -> None:
    ranked, asked = rows(f"preferences{split}"), rows(f"prompts{split}")
    questions = [row["instruction"] for row in (*ranked, *asked)]
    assert (len(ranked), len(asked)) == (pairs, prompts)
    assert len(set(questions)) == len(questions)


def test_no_question_that_is_held_out_was_trained_on() -> None:
    trained, held_out = (
        {row["instruction"] for name in ("preferences", "prompts") for row in rows(f"{name}{split}")}
        for split in SPLITS
    )
    assert not trained & held_out


@pytest.mark.parametrize("split", SPLITS)
def test_the_chosen_answer_is_short_and_the_rejected_long(split: str) -> None:
    ranked = rows(f"preferences{split}")
    words = [(len(row["chosen"].split()), len(row["rejected"].split())) for row in ranked]
    assert all(chosen < rejected for chosen, rejected in words)
    assert mean(chosen for chosen, _ in words) < 15
    assert mean(rejected for _, rejected in words) > 35


def test_no_rejected_answer_is_told_by_how_it_begins() -> None:
    ranked = rows("preferences")
    begins = [row["rejected"].split()[0] for row in ranked]
    assert max(begins.count(word) for word in set(begins)) < len(ranked) / 5
    assert sum(row["rejected"].startswith(row["chosen"]) for row in ranked) > len(ranked) / 10


@pytest.mark.parametrize("split", SPLITS)
def test_feedback_is_the_pairs_one_by_one(split: str) -> None:
    ranked, tagged = rows(f"preferences{split}"), rows(f"feedback{split}")
    for side, wanted in (("chosen", True), ("rejected", False)):
        pairs = {(row["instruction"], row[side]) for row in ranked}
        assert pairs == {(row["instruction"], row["output"]) for row in tagged if row["wanted"] is wanted}


def test_dataset_info_names_files_that_exist() -> None:
    info = json.loads((STAGES / "dataset_info.json").read_text(encoding="utf-8"))
    assert {entry["file_name"] for entry in info.values()} == {path.name for path in STAGES.glob("*.jsonl")}


# ---- the configurations -------------------------------------------------------------------------------------------

ALONE = ("pt", "sft", "rm")
PREFERRING = ("dpo", "kto")
"""They start from what sft saved."""
CHAINED = ("ppo", "grpo", "rloo")
"""They start from what sft saved, and rm gives the rewards."""
SMALL = {
    "max_steps": 2,
    "logging_steps": 1,
    "use_cpu": True,
    "max_samples": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
}
DRAWN = {"max_new_tokens": 4, "cutoff_len": 400}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def carry_out(tiny_model_dir: Path, outputs: Path) -> Callable[..., dict[str, Any]]:
    """Runs an example on a tiny model, once however often it is asked for, and gives its last row."""
    done: dict[str, dict[str, Any]] = {}

    def once(name: str, **more: Any) -> dict[str, Any]:
        if name not in done:
            if name.startswith(PREFERRING):
                once("sft")
                more["adapter_name_or_path"] = outputs / "sft"
            text = (STAGES / f"{name.partition('-')[0]}.yaml").read_text(encoding="utf-8")
            keys = {"model_name_or_path": tiny_model_dir, "output_dir": outputs / name, "cache_dir": outputs / "cache"}
            keys |= SMALL | more | ({"brevity_max_new_tokens": 2} if "brevity_questions" in text else {})
            config = STAGES / f"{name.partition('-')[0]}.yaml"
            finished = run(*make_plan(config, [f"{key}={value}" for key, value in keys.items()]))
            done[name] = json.loads((finished.output_dir / "metrics.jsonl").read_text().splitlines()[-1])
        return done[name]

    return once


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", ALONE)
def test_an_example_plans_as_it_is(name: str) -> None:
    plan, _ = make_plan(STAGES / f"{name}.yaml")
    assert plan.output_dir == Path(f"outputs/stages/{name}")
    assert plan.get("overwrite_output_dir"), "an example can be run twice"


def test_there_are_no_other_examples() -> None:
    assert {path.stem for path in STAGES.glob("*.yaml")} == {*ALONE, *PREFERRING, *CHAINED}


@pytest.mark.parametrize("name", [*ALONE, *PREFERRING])
def test_an_example_measures_before_and_after(carry_out: Callable[..., dict[str, Any]], name: str) -> None:
    final = carry_out(name)
    assert {"eval_loss_before", "eval_loss"} <= final.keys()
    if name in ("sft", "dpo", "kto"):
        assert {"answer_words_before", "answer_words", "answer_hedges"} <= final.keys()


@pytest.mark.parametrize("loss", ["hinge", "ipo", "kto_pair", "orpo", "simpo"])
def test_the_losses_that_dpo_documents(carry_out: Callable[..., dict[str, Any]], loss: str) -> None:
    documented = (STAGES / "dpo.yaml").read_text(encoding="utf-8")
    words = re.search(rf"ft run examples/stages/dpo\.yaml (pref_loss={loss}.*)", documented)
    assert words is not None
    assert "eval_loss" in carry_out(f"dpo-{loss}", **dict(word.split("=") for word in words[1].split()))


@pytest.mark.parametrize("name", CHAINED)
def test_the_chain_runs_from_the_saved_files(
    carry_out: Callable[..., dict[str, Any]], outputs: Path, name: str
) -> None:
    carry_out("sft")
    carry_out("rm")
    groups = {} if name == "ppo" else {"num_generations": 2}
    earlier = {"adapter_name_or_path": outputs / "sft", "reward_model": outputs / "rm"}
    final = carry_out(name, **earlier, **groups, **DRAWN)
    assert any("reward" in metric and metric.endswith("_before") for metric in final)
    assert {"answer_words_before", "answer_words"} <= final.keys()
