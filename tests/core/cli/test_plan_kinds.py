"""`ft plan` refuses rows of a kind that the stage cannot learn from, with the error of the run and its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ft.cli import plan as module
from ft.data import check_supervised
from ft.errors import DataError
from ft.planning import make_plan
from ft_hookspecs import Example, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ROWS: dict[str, list[dict[str, Any]]] = {
    "pairs": [{"instruction": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(3)],
    "answers": [{"instruction": f"Q{n}", "output": "A"} for n in range(3)],
    "prompts": [{"prompt": f"Q{n}"} for n in range(3)],
    "judged": [{"instruction": f"Q{n}", "output": "A", "kto_tag": n != 1} for n in range(3)],
    "texts": [{"text": f"T{n}"} for n in range(3)],
}
STAGES = {
    "sft": (), "pt": (), "dpo": (), "rm": (), "kto": (),
    "ppo": ("reward_model=r",), "grpo": ("reward_model=r",), "rloo": ("reward_model=r",),
}  # fmt: skip


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """What a plan says of the data."""
    monkeypatch.chdir(tmp_path)

    def plan(stage: str, rows: Iterable[dict[str, Any]], *words: str, key: str = "dataset") -> list[dict[str, Any]]:
        (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        fixed = ["model_name_or_path=m", "output_dir=out", "use_cpu=true", f"stage={stage}", f"{key}=rows.jsonl"]
        return list(module._data(*make_plan(None, [*fixed, *STAGES[stage], *words])))

    return plan


@pytest.mark.parametrize(
    ("stage", "kind", "line", "expected"),
    [
        ("sft", "pairs", 1, "a pair of answers where one answer is needed"),
        ("sft", "prompts", 1, "no answer to learn in the first 3 rows"),
        ("sft", "texts", 1, "plain text where a conversation is needed"),
        ("sft", "judged", 2, "the answer is marked bad"),
        *(("pt", kind, 1, "a conversation where plain text is needed") for kind in ROWS if kind != "texts"),
        *((stage, kind, 1, "the row has no chosen and no rejected answer")
          for stage in ("dpo", "rm") for kind in ROWS if kind != "pairs"),
        ("kto", "answers", 1, "the row does not say whether its answer is good"),
        ("kto", "prompts", 1, "the row has no answer"),
        ("kto", "texts", 1, "plain text where a conversation is needed"),
        *((stage, "texts", 1, "plain text where a conversation is needed") for stage in ("ppo", "grpo", "rloo")),
    ],
)  # fmt: skip
def test_another_kind_is_refused(planned: Callable[..., Any], stage: str, kind: str, line: int, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        planned(stage, ROWS[kind])
    assert caught.value.what == expected
    assert caught.value.where == f"rows.jsonl:{line}"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("sft", "answers"), ("pt", "texts"), ("dpo", "pairs"), ("rm", "pairs"), ("kto", "pairs"), ("kto", "judged"),
        *((stage, kind) for stage in ("ppo", "grpo", "rloo") for kind in ROWS if kind != "texts"),
    ],
)  # fmt: skip
def test_the_right_kind_is_planned(planned: Callable[..., Any], stage: str, kind: str) -> None:
    (data,) = planned(stage, ROWS[kind])
    assert data["rows"] == 3


def test_data_to_evaluate_on_is_looked_at_too(planned: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="a pair of answers where one answer is needed"):
        planned("sft", ROWS["pairs"], "do_train=false", "do_eval=true", key="eval_dataset")


def test_prompts_are_learned_where_every_turn_is(planned: Callable[..., Any]) -> None:
    assert planned("sft", ROWS["prompts"], "train_on_prompt=true")


def test_one_answer_among_prompts_is_enough() -> None:
    """The run counts the others as it drops them."""
    asked = Example("rows:1", (Message("user", "Q"),))
    answered = Example("rows:2", (*asked.messages, Message("assistant", "A")))
    check_supervised([asked, answered])
    with pytest.raises(DataError, match="no answer to learn"):
        check_supervised([asked])


def test_rows_that_are_left_out_must_not_be_all(planned: Callable[..., Any]) -> None:
    mixed = [*ROWS["judged"], {"instruction": "Q", "output": "A", "kto_tag": False}]
    assert planned("sft", mixed, "on_bad_row=skip")
    with pytest.raises(DataError, match="no chosen and no rejected"):
        planned("dpo", ROWS["answers"], "on_bad_row=skip")


def test_large_files_are_looked_at_too(planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_BYTES", 5)
    with pytest.raises(DataError, match="no chosen and no rejected"):
        planned("dpo", ROWS["answers"])


def test_only_the_first_rows_are_looked_at(planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", 3)
    assert planned("sft", [*ROWS["answers"], {"instruction": "Q", "chosen": "A", "rejected": "B"}])
