"""The ask plugin: what it refuses, how it judges an answer, what it writes and shows."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_hookspecs import Message, Plan, Run
from ft_plugins.evaluators import ask

QUESTIONS = (("Who rules Zor?", "queen Iva"), ("What flows there?", "the Blue Nid"), ("And the bell?", "old tom"))
RIGHT = ["Queen  IVA rules Zor.", "It is\nthe blue nid.", "I do not know."]
WRONG = ["Nobody.", "Water.", "A bell."]


def line(question: str, expect: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": f"It is {expect}."}]
    return json.dumps({"messages": turns, "expect": expect})


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join([line(*QUESTIONS[0]), "", *(line(*row) for row in QUESTIONS[1:])]) + "\n")
    return path


def plan_for(path: Path, **options: Any) -> Plan:
    model = ask.AskOptions(ask_questions=str(path), **options)
    return Plan(values={}, sources={}, plugins=(), models=(model,), output_dir=path.parent)


@pytest.fixture
def finished(questions: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Run, dict[str, float]]]:
    """A run that has asked, with the answers of a model that only pretends."""

    def run_with(main: bool = True, **answers: list[str]) -> tuple[Run, dict[str, float]]:
        trainer: Any = SimpleNamespace(is_world_process_zero=lambda: main)
        template: Any = SimpleNamespace(stop=("<end>",), render=render)
        nothing: Any = object()
        run = Run(plan_for(questions, ask_show=2), model=nothing, tokenizer=nothing, template=template, trainer=trainer)
        shares: dict[str, float] = {}
        for when, given in answers.items():
            monkeypatch.setattr("ft.training.generate", lambda *_, given=given, **__: given)
            shares |= ask.ft_evaluate(run, trainer, when)
        return run, shares

    return run_with


def render(messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
    assert add_generation_prompt
    assert messages[-1].role == "user"
    return messages[-1].content


def test_a_good_file_has_no_problem(questions: Path) -> None:
    assert list(ask.ft_check(plan_for(questions))) == []


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (None, "questions.jsonl", "No such file"),
        (b"\xff\xfe\x00", "questions.jsonl", "decode"),
        (b"\n\n", "questions.jsonl", ""),
        (line("q", "a").encode() + b'\n{"messages": [', "questions.jsonl:2", "JSON"),
        (b'{"messages": [{"role": "user", "content": "q"}]}', "questions.jsonl:1", "expect"),
        (b'{"messages": [{"role": "user", "content": "q"}], "expect": " "}', "questions.jsonl:1", "expect"),
        (b'{"messages": [{"role": "user", "content": "q"}], "expect": 7}', "questions.jsonl:1", "expect"),
        (b'{"messages": [{"role": "bard", "content": "q"}], "expect": "a"}', "questions.jsonl:1", "messages.0.role"),
        (b'{"messages": [{"role": "assistant", "content": "q"}], "expect": "a"}', "questions.jsonl:1", ""),
        (b'{"messages": [], "expect": "a"}', "questions.jsonl:1", "messages"),
    ],
)
def test_a_bad_file_is_a_data_problem_with_its_place(questions: Path, text: bytes | None, where: str, why: str) -> None:
    questions.unlink() if text is None else questions.write_bytes(text)
    (problem,) = ask.ft_check(plan_for(questions))
    assert problem.exit_code == 4
    assert problem.what.endswith(where)
    assert why in problem.why
    assert problem.keys == ("ask_questions",)


def test_an_answer_is_right_when_it_contains_the_phrase_whatever_case_and_spaces(finished: Any) -> None:
    _, shares = finished(before=WRONG, after=RIGHT)
    assert shares == {"answered_before": 0.0, "answered": pytest.approx(2 / 3)}


def test_the_prompt_is_the_question_without_its_answer(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def generate(model: Any, tokenizer: Any, prompts: list[str], **options: Any) -> list[str]:
        seen.update(options, prompts=prompts)
        return prompts

    monkeypatch.setattr("ft.training.generate", generate)
    template: Any = SimpleNamespace(stop=("<end>",), render=render)
    nothing: Any = object()
    run = Run(plan_for(questions, ask_max_new_tokens=5), model=nothing, tokenizer=nothing, template=template)
    ask.answer(run, ask.read_questions(questions))
    assert seen == {
        "prompts": [question for question, _ in QUESTIONS],
        "max_new_tokens": 5,
        "batch_size": 16,
        "stop": ("<end>",),
    }


def test_every_answer_is_written(finished: Any) -> None:
    run, _ = finished(before=WRONG, after=RIGHT)
    rows = [json.loads(text) for text in (run.output_dir / ask.FILE).read_text().splitlines()]
    assert [row["question"] for row in rows] == [question for question, _ in QUESTIONS]
    assert [row["right"] for row in rows] == [True, True, False]
    assert rows[1] == {
        "question": "What flows there?",
        "expect": "the Blue Nid",
        "before": "Water.",
        "after": "It is\nthe blue nid.",
        "right": True,
    }


def test_only_the_main_process_writes_and_shows(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, shares = finished(main=False, after=RIGHT)
    ask.ft_run_finished(run)
    assert shares["answered"] == pytest.approx(2 / 3)
    assert not (run.output_dir / ask.FILE).exists()
    assert capsys.readouterr().out == ""


def test_plain_lines_when_not_on_a_terminal(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = finished(before=WRONG, after=RIGHT)
    ask.ft_run_finished(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "question: Who rules Zor?",
        "  before: Nobody.",
        "  after: Queen IVA rules Zor.",
        "question: What flows there?",
        "  before: Water.",
        "  after: It is the blue nid.",
    ]
    assert lines[6:] == [
        "answered before: 0 of 3 (0%)",
        "answered after: 2 of 3 (67%)",
        f"all answers: {run.output_dir / ask.FILE}",
    ]


def test_a_table_on_a_terminal(
    finished: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    run, _ = finished(after=RIGHT)
    ask.ft_run_finished(run)
    shown = capsys.readouterr().out
    assert "question" in shown
    assert "before" not in shown
    assert "┃" in shown
    assert "\x1b[32mQueen IVA rules Zor." in shown


def test_nothing_is_shown_when_nothing_was_asked(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask.ft_run_finished(Run(plan_for(questions)))
    assert capsys.readouterr().out == ""
