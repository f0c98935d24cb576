"""Whether examples are of the kind that a stage learns from, judged on the first of them while planning.

Each function is to one of :mod:`ft.data.prepare` and :mod:`ft.data.pairs` of like name, and raises the error that it
would raise once the run has begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.data.asking import as_feedback, as_pair, as_prompt
from ft.data.prepare import plain_text
from ft.data.spans import Supervision, learned_turns
from ft.data.tokens import check_answer
from ft.errors import DataError
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ft_hookspecs import Example


def check_supervised(examples: Sequence[Example], *, train_on_prompt: bool = False) -> None:
    """Conversations with an answer.

    Raises:
        DataError: plain text, a pair, an answer that is marked bad; no example has anything to learn.
    """
    supervision = Supervision(cutoff_len=1, train_on_prompt=train_on_prompt)
    learns = False
    for example in examples:
        check_answer(example)
        learns = any(learned_turns(example, supervision)) or learns
    if examples and not learns:
        raise DataError(
            "no answer to learn" if len(examples) == 1 else f"no answer to learn in the first {len(examples)} rows",
            where=examples[0].where,
            why="this stage learns the assistant's messages",
            remedy="give rows with answers; from prompts alone the stages ppo, grpo and rloo learn",
        )


def check_text(examples: Sequence[Example]) -> None:
    """Plain texts.

    Raises:
        DataError: a conversation.
    """
    for example in examples:
        plain_text(example)


def check_pairs(examples: Sequence[Example]) -> None:
    """A prompt with a better and a worse answer.

    Raises:
        DataError: an answer is missing, or the prompt.
    """
    for example in examples:
        as_pair(example, DataCounts())


def check_feedback(examples: Sequence[Example]) -> None:
    """Answers that are judged good or bad, or pairs.

    Raises:
        DataError: the judgement is missing, or the answer.
    """
    for example in examples:
        as_feedback(example, DataCounts())


def check_prompts(examples: Sequence[Example]) -> None:
    """Conversations, with answers or without.

    Raises:
        DataError: plain text.
    """
    for example in examples:
        as_prompt(example, DataCounts())
