"""The shapes of TRL: ``prompt`` with ``completion``, with ``chosen`` and ``rejected``, or alone.

Each of them is a text or a list of ``{"role": "user", "content": …}``. A ``label`` beside a completion says whether it
is a good one (kto). Without ``prompt``, or where ``chosen`` begins with a message that is not the assistant's, both
sides are whole conversations, and the prompt is what they have in common. A prompt that is a text is what the user
says: it is rendered by the chat template as any other.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from ft.errors import DataError
from ft_hookspecs import Example, hookimpl
from ft_plugins.data import conversation, fields, openai

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ft_hookspecs import DatasetSource, FormatReader, Message, Row
    from ft_plugins.data.conversation import Tags

ft_api_version = 1

LABEL: Final = "label"

DEFAULTS: Final = {
    "prompt": "prompt",
    "response": "completion",
    "chosen": "chosen",
    "rejected": "rejected",
    "system": "system",
    "tools": "tools",
}


@hookimpl
def ft_read_format(source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    if fields.detect(source, columns) != "trl":
        return None
    names = fields.column_names(source, columns, **DEFAULTS)
    tags = conversation.Tags.of(source, openai.TAGS, developer="system")
    if source.ranking or not {names["chosen"], names["rejected"]}.isdisjoint(columns):
        return partial(read_pair, names, tags)
    if LABEL in columns:
        names = {"kto_tag": LABEL, **names}
    if names["response"] in columns or names.get("kto_tag") in columns:
        return partial(read_answer, names, tags)
    return partial(read_prompt, names, tags)


def read_prompt(names: Mapping[str, str], tags: Tags, row: Row) -> Example:
    """A row that asks for an answer."""
    messages = prompt(names, tags, row)
    conversation.check_order(messages, row, answered=False)
    return Example(row.where, messages=messages, tools=fields.tools(row, names["tools"]))


def read_answer(names: Mapping[str, str], tags: Tags, row: Row) -> Example:
    """A row with one answer, perhaps judged."""
    answer = conversation.read_answer(names["response"], tags, row)
    messages = (*prompt(names, tags, row), *answer)
    return conversation.answered(messages, fields.tools(row, names["tools"]), fields.judgement(row, names, LABEL), row)


def read_pair(names: Mapping[str, str], tags: Tags, row: Row) -> Example:
    """A row with a better and a worse answer, or with two whole conversations."""
    sides = [conversation.read_turns(names[part], "assistant", tags, row) for part in ("chosen", "rejected")]
    whole = [side[0].role != "assistant" for side in sides]
    tools = fields.tools(row, names["tools"])
    if not any(whole):
        return conversation.pair(prompt(names, tags, row), sides, tools, row)
    if not all(whole):
        raise DataError(
            "one of chosen and rejected is a whole conversation, the other an answer",
            where=row.where,
            why="both begin with the prompt, or both with the assistant's answer",
        )
    shared = common_prompt(sides, row)
    before = shared if shared[0].role == "system" else (*fields.system(row, names["system"]), *shared)
    return conversation.pair(before, [side[len(shared) :] for side in sides], tools, row)


def prompt(names: Mapping[str, str], tags: Tags, row: Row) -> tuple[Message, ...]:
    """What is asked: the column of the prompt, and that of the system message if the prompt has none."""
    fields.check_media(row)
    turns = conversation.read_turns(names["prompt"], "user", tags, row)
    return turns if turns[0].role == "system" else (*fields.system(row, names["system"]), *turns)


def common_prompt(sides: Sequence[tuple[Message, ...]], row: Row) -> tuple[Message, ...]:
    """The messages with which both conversations begin, up to where an answer differs.

    Raises:
        DataError: there are none.
    """
    fields.check_media(row)
    same = takewhile(lambda both: both[0] == both[1], zip(*sides, strict=False))
    shared = [message for message, _ in same]
    while shared and shared[-1].role == "assistant":
        shared.pop()
    if shared:
        return tuple(shared)
    raise DataError(
        "chosen and rejected have no common beginning",
        where=row.where,
        why="without a column for the prompt it is the messages with which both begin",
    )
