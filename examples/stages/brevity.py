"""Show the behaviour that the preferences ask for: how long the answers are before and after, and how much they hedge.

Greedy answers to the questions of a file; ``answers.jsonl`` in the run's folder holds them all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import Field

from ft_hookspecs import Message, PluginOptions, StashKey, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import Trainer

    from ft_hookspecs import Run

ft_api_version = 1

ANSWERS: Final = StashKey[dict[str, list[str]]]("brevity answers")
HEDGES: Final = re.compile(
    r"\b(perhaps|maybe|might|may|could|possibly|probably|generally|seems?|suppose|depends|believe|think|guess)\b"
)


class BrevityOptions(PluginOptions):
    """Which questions are asked."""

    brevity_questions: str = Field(min_length=1, description="JSON lines with an `instruction` each.")
    brevity_max_new_tokens: int = Field(96, gt=0, description="Maximum length of an answer, in tokens.")


@hookimpl
def ft_options() -> type[PluginOptions]:
    return BrevityOptions


@hookimpl
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    questions = read_questions(run)
    asked = {**run.stash.get(ANSWERS, {}), when: answer(run, questions)}
    run.stash[ANSWERS] = asked
    if when == "after" and trainer.is_world_process_zero():
        rows = zip(questions, *asked.values(), strict=True)
        lines = [json.dumps(dict(zip(("question", *asked), row, strict=True)), ensure_ascii=False) for row in rows]
        (run.output_dir / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    suffix = "_before" if when == "before" else ""
    return {f"{name}{suffix}": value for name, value in measure(asked[when]).items()}


def read_questions(run: Run) -> list[str]:
    lines = Path(run.plan.of(BrevityOptions).brevity_questions).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["instruction"] for line in lines]


def answer(run: Run, questions: list[str]) -> list[str]:
    from ft.training import generate

    assert run.model is not None
    assert run.tokenizer is not None
    assert run.template is not None
    prompts = [run.template.render([Message("user", each)], add_generation_prompt=True) for each in questions]
    length = run.plan.of(BrevityOptions).brevity_max_new_tokens
    return generate(run.model, run.tokenizer, prompts, max_new_tokens=length, stop=run.template.stop)


def measure(answers: list[str]) -> dict[str, float]:
    """Words of an answer on average, and how many of a hundred words hedge."""
    words = sum(len(text.split()) for text in answers)
    hedges = sum(len(HEDGES.findall(text.lower())) for text in answers)
    return {"answer_words": words / len(answers), "answer_hedges": 100 * hedges / max(1, words)}
