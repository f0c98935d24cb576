"""What checks say of a plan: problems stop it, notes are kept with their place."""

from pathlib import Path

import pytest

from ft.errors import Problems
from ft.planning import make_plan

CHECKING = """
from ft_hookspecs import Note, Problem, hookimpl

@hookimpl
def ft_check(plan):
    yield Note("weight_decay has no effect: nothing decays", ("lr_scheduler_type", "weight_decay"))
    yield Note("the weather is fine")
    if plan.get("max_steps") == 7:
        yield Problem("seven steps", remedy="eight", keys=("max_steps",))
"""


@pytest.fixture
def words(tmp_path: Path, tiny_model_dir: Path) -> list[str]:
    (tmp_path / "checking.py").write_text(CHECKING)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    keys = {"model_name_or_path": tiny_model_dir, "dataset": tmp_path / "rows.jsonl", "output_dir": tmp_path / "out"}
    return [f"plugins={tmp_path / 'checking.py'}", *(f"{key}={value}" for key, value in keys.items())]


def test_notes_of_checks_stand_in_the_plan_with_the_place_of_their_keys(words: list[str]) -> None:
    plan, _ = make_plan(None, [*words, "weight_decay=0.1"])
    assert plan.notes == (
        "command line: weight_decay: weight_decay has no effect: nothing decays",
        "the weather is fine",
    )


def test_a_note_does_not_hide_a_problem(words: list[str]) -> None:
    with pytest.raises(Problems, match="seven steps") as caught:
        make_plan(None, [*words, "max_steps=7"])
    assert len(caught.value.problems) == 1
