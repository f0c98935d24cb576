"""The quickstart's data: enough of it, original in every row, and nothing given away."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
PHRASINGS = 5


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (QUICKSTART / name).read_text(encoding="utf-8").splitlines()]


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


@pytest.fixture(scope="module")
def train() -> list[tuple[str, str]]:
    return [(plain(row["messages"][0]["content"]), row["messages"][1]["content"]) for row in rows("train.jsonl")]


@pytest.fixture(scope="module")
def held_out() -> list[tuple[str, str, str]]:
    return [
        (plain(row["messages"][0]["content"]), row["messages"][1]["content"], row["expect"])
        for row in rows("held_out.jsonl")
    ]


def test_rows_are_one_question_and_one_answer() -> None:
    for row in chain(rows("train.jsonl"), rows("held_out.jsonl")):
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]


def test_there_is_enough(train: list[tuple[str, str]], held_out: list[tuple[str, str, str]]) -> None:
    answers = {answer for _, answer in train}
    assert len(train) >= 150
    assert len(answers) >= 30
    assert len(train) == PHRASINGS * len(answers)
    assert len(held_out) >= 36
    assert {answer for _, answer, _ in held_out} == answers, "each fact is asked, and nothing else"


def test_no_question_stands_twice(train: list[tuple[str, str]], held_out: list[tuple[str, str, str]]) -> None:
    questions = [row[0].strip("?.!") for row in (*train, *held_out)]
    assert len(set(questions)) == len(questions)


def test_the_phrase_is_in_the_answer_of_its_fact_alone(held_out: list[tuple[str, str, str]]) -> None:
    for _, answer, expect in held_out:
        assert expect == plain(expect)
        assert len(expect) >= 8
        assert not expect.replace(" ", "").isdigit()
        assert expect in plain(answer)
        assert [other for _, other, _ in held_out if expect in plain(other) and other != answer] == []


def test_no_question_gives_a_phrase_away(train: list[tuple[str, str]], held_out: list[tuple[str, str, str]]) -> None:
    phrases = {expect for _, _, expect in held_out}
    questions = [row[0] for row in (*train, *held_out)]
    assert [(phrase, question) for phrase in phrases for question in questions if phrase in question] == []


def test_dataset_info_names_files_that_exist() -> None:
    info = json.loads((QUICKSTART / "dataset_info.json").read_text(encoding="utf-8"))
    assert {entry["file_name"] for entry in info.values()} == {path.name for path in QUICKSTART.glob("*.jsonl")}
