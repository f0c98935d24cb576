"""Examples as prompts with answers: of a pair both, of a judged answer the one, of a prompt none.

Per-message weights and ``train`` marks say nothing here, as whole answers are judged; that they were not heeded is
counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ft.data.answers import Asked
from ft.data.spans import conversation
from ft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ft_hookspecs import DataCounts, Example, Message

EQUAL: Final = "chosen and rejected are equal"
SPLIT_PAIR: Final = "pairs were split into a desirable and an undesirable sample"
UNHEEDED: Final = "rows whose message weights or train marks were ignored, because whole answers are judged"


def note_unheeded(example: Example, counts: DataCounts) -> None:
    """Count an example that says of a message how it is to be learned."""
    messages = (*example.messages, *example.chosen, *example.rejected)
    if any(message.weight != 1 or message.train is not None for message in messages):
        counts.repair(UNHEEDED)


def as_pair(example: Example, _counts: DataCounts) -> Sequence[Asked]:
    """The prompt with the chosen answer and the rejected one.

    Raises:
        DataError: the example has not both.
    """
    if example.chosen and example.rejected:
        return (Asked(_prompt(example, conversation(example)), (example.chosen, example.rejected)),)
    raise DataError(
        f"the row has no {'rejected' if example.chosen else 'chosen and no rejected'} answer",
        where=example.where,
        why="this stage learns from pairs: a better and a worse answer to one prompt",
        remedy="set ranking: true for the data set in dataset_info.json and name its columns chosen and rejected",
    )


def as_feedback(example: Example, counts: DataCounts) -> Sequence[Asked]:
    """The prompt with the answer and its judgement; both answers of a pair, unless they are equal.

    Raises:
        DataError: the example is neither judged nor a pair.
    """
    if example.chosen and example.rejected:
        if example.chosen == example.rejected:
            counts.drop(EQUAL)
            return ()
        counts.repair(SPLIT_PAIR)
        prompt = _prompt(example, conversation(example))
        return Asked(prompt, (example.chosen,), desirable=True), Asked(prompt, (example.rejected,), desirable=False)
    prompt, answer = split_answer(example)
    if example.desirable is not None and answer:
        return (Asked(prompt, (answer,), example.desirable),)
    raise DataError(
        "the row does not say whether its answer is good" if answer else "the row has no answer",
        where=example.where,
        why="this stage learns from answers that are judged true (good) or false (bad)",
        remedy="name the column that says it in dataset_info.json: columns: {kto_tag: …}",
    )


def as_prompt(example: Example, _counts: DataCounts) -> Sequence[Asked]:
    """The prompt alone, and beside it the text of the row's own answer."""
    prompt, answer = split_answer(example)
    return (Asked(prompt, own_answer=answer[-1].content if answer else ""),)


def split_answer(example: Example) -> tuple[Example, tuple[Message, ...]]:
    """The conversation up to its last message of the user, and the answer after it (of a pair: the chosen one)."""
    messages = conversation(example)
    begin = max((turn + 1 for turn, message in enumerate(messages) if message.role == "user"), default=0)
    if example.chosen:
        return _prompt(example, messages), example.chosen
    return _prompt(example, messages[:begin]), messages[begin:]


def _prompt(example: Example, messages: tuple[Message, ...]) -> Example:
    return replace(example, messages=messages, chosen=(), rejected=(), desirable=None)
