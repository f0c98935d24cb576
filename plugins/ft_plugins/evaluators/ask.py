"""Ask a file of questions before and after training, and count the answers that contain the expected phrase."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ft.errors import DataError
from ft_hookspecs import Message, PluginOptions, Problem, Role, StashKey, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console
    from transformers import Trainer

    from ft_hookspecs import Plan, Run

ft_api_version = 1

ANSWERS: Final = StashKey[dict[str, list[str]]]("ask answers")
"""``before`` and ``after``: the model's answers, in the order of the questions."""

FILE: Final = "answers.jsonl"
REMEDY: Final = 'write one {"messages": [{"role": "user", "content": "…"}], "expect": "…"} a line'


class AskOptions(PluginOptions):
    """Which questions are asked, and how."""

    ask_questions: str = Field(
        min_length=1, description="JSON lines: `messages` that end in a question (and its answer), and `expect`."
    )
    ask_max_new_tokens: int = Field(48, gt=0, description="Maximum length of an answer, in tokens.")
    ask_batch_size: int = Field(16, gt=0, description="Questions that are answered together.")
    ask_show: int = Field(8, ge=0, description="Questions that are shown at the end of the run; all are written.")


class Turn(BaseModel):
    """One message as the file has it."""

    model_config = ConfigDict(strict=True, frozen=True)

    role: Role
    content: str = Field(min_length=1)


class Question(BaseModel):
    """One line of the file. A last turn of the assistant is the right answer, there to be trained or measured on."""

    model_config = ConfigDict(strict=True, frozen=True)

    messages: list[Turn] = Field(min_length=1)
    expect: str = Field(min_length=1, pattern=r"\S")

    @property
    def prompt(self) -> tuple[Message, ...]:
        turns = self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages
        return tuple(Message(turn.role, turn.content) for turn in turns)

    def is_answered_by(self, answer: str) -> bool:
        """Whether the expected phrase stands in ``answer``, whatever the case and the spaces."""
        return plain(self.expect) in plain(answer)


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; blank lines are passed over.

    Raises:
        DataError: the file cannot be read or has no question, or a line is not one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("cannot read the questions", where=str(path), why=str(error)) from None
    questions = [read_question(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise DataError("there is no question to ask", where=str(path), remedy=REMEDY)
    return questions


def read_question(line: str, where: str) -> Question:
    try:
        question = Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        why = f"{place}: {first['msg']}" if place else first["msg"]
        raise DataError("a question is malformed", where=where, why=why, remedy=REMEDY) from None
    if not question.prompt:
        raise DataError("an answer without a question", where=where, remedy=REMEDY)
    return question


@hookimpl
def ft_options() -> type[PluginOptions]:
    return AskOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    try:
        read_questions(Path(plan.of(AskOptions).ask_questions))
    except DataError as error:
        yield Problem(
            f"ask_questions: {error.what}, {error.where}",
            why=error.why,
            remedy=error.remedy,
            keys=("ask_questions",),
            exit_code=error.exit_code,
        )


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    questions = read_questions(Path(run.plan.of(AskOptions).ask_questions))
    answers = answer(run, questions)
    asked = {**run.stash.get(ANSWERS, {}), when: answers}
    run.stash[ANSWERS] = asked
    if when == "after" and trainer.is_world_process_zero():
        write_answers(run.output_dir / FILE, questions, asked)
    return {"answered" if when == "after" else f"answered_{when}": share_answered(questions, answers)}


def answer(run: Run, questions: list[Question]) -> list[str]:
    """Greedy answers, from the same rendering that training used."""
    from ft.training import generate

    options = run.plan.of(AskOptions)
    assert run.model is not None
    assert run.tokenizer is not None
    assert run.template is not None
    return generate(
        run.model,
        run.tokenizer,
        [run.template.render(question.prompt, add_generation_prompt=True) for question in questions],
        max_new_tokens=options.ask_max_new_tokens,
        batch_size=options.ask_batch_size,
        stop=run.template.stop,
    )


def share_answered(questions: list[Question], answers: list[str]) -> float:
    """From 0 to 1."""
    return sum(map(Question.is_answered_by, questions, answers)) / len(questions)


def write_answers(path: Path, questions: list[Question], asked: Mapping[str, list[str]]) -> None:
    """One line a question, with what was answered before and after and whether the last answer is right."""
    with path.open("w", encoding="utf-8") as file:
        for index, question in enumerate(questions):
            row: dict[str, Any] = {"question": question.prompt[-1].content, "expect": question.expect}
            row |= {when: answers[index] for when, answers in asked.items()}
            file.write(json.dumps({**row, "right": question.is_answered_by(asked["after"][index])}) + "\n")


@hookimpl
def ft_run_finished(run: Run) -> None:
    from rich.console import Console

    asked = run.stash.get(ANSWERS, {})
    if not asked or (run.trainer is not None and not run.trainer.is_world_process_zero()):
        return
    options = run.plan.of(AskOptions)
    questions = read_questions(Path(options.ask_questions))
    console = Console(markup=False, highlight=False)
    show = show_table if console.is_terminal else show_lines
    show(console, questions[: options.ask_show], asked)
    for when, answers in asked.items():
        right = sum(map(Question.is_answered_by, questions, answers))
        console.print(f"answered {when}: {right} of {len(questions)} ({right / len(questions):.0%})", soft_wrap=True)
    console.print(f"all answers: {run.output_dir / FILE}", soft_wrap=True)


def show_table(console: Console, questions: list[Question], asked: Mapping[str, list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("question", *asked, show_lines=True)
    for index, question in enumerate(questions):
        cells = (
            Text(plain_line(answers[index]), style="green" if question.is_answered_by(answers[index]) else "")
            for answers in asked.values()
        )
        table.add_row(Text(question.prompt[-1].content), *cells)
    console.print(table)


def show_lines(console: Console, questions: list[Question], asked: Mapping[str, list[str]]) -> None:
    """The same for a log file: one line a cell, nothing cut."""
    for index, question in enumerate(questions):
        console.print(f"question: {plain_line(question.prompt[-1].content)}", soft_wrap=True)
        for when, answers in asked.items():
            console.print(f"  {when}: {plain_line(answers[index])}", soft_wrap=True)


def plain_line(text: str) -> str:
    return " ".join(text.split())
