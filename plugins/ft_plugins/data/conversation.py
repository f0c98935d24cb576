"""Conversations as lists of messages: what the sharegpt and openai formats share; they differ in tags and columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ft.errors import DataError, did_you_mean
from ft_hookspecs import Example, Message
from ft_plugins.data import fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ft_hookspecs import DatasetSource, FormatReader, Role, Row, ToolSpec

TAGS: Final = (
    "role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag",
)  # fmt: skip
REASONING: Final = ("reasoning_content", "reasoning", "thinking")
HEAVIEST: Final = 1e6
"""The largest weight of a message: losses are computed in fp32, where some greater ones leave no number."""


@dataclass(frozen=True)
class Tags:
    """How a source writes its messages: the keys of role and content, and the role that each value means."""

    role: str
    content: str
    roles: Mapping[str, Role]
    function: str

    @classmethod
    def of(cls, source: DatasetSource, defaults: Mapping[str, str], **further: Role) -> Tags:
        """The tags that a source names, and ``defaults`` for the rest.

        Raises:
            DataError: an unknown tag.
        """
        for tag in source.tags:
            if tag not in TAGS:
                raise DataError(
                    f"tags of {source.name!r} names an unknown tag {tag!r}",
                    where=source.declared_at,
                    remedy=did_you_mean(tag, TAGS) or f"the tags are {', '.join(TAGS)}",
                )
        tags = {**defaults, **source.tags}
        roles: dict[str, Role] = {
            **further,
            tags["system_tag"]: "system",
            tags["observation_tag"]: "tool",
            tags["function_tag"]: "assistant",
            tags["assistant_tag"]: "assistant",
            tags["user_tag"]: "user",
        }
        return cls(tags["role_tag"], tags["content_tag"], roles, tags["function_tag"])


def reader(source: DatasetSource, columns: Sequence[str], tags: Tags, messages: str) -> FormatReader:
    """A reader of conversations; ``messages`` is the default name of their column."""
    defaults = {"messages": messages, "system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected"}
    return partial(read, fields.column_names(source, columns, **defaults), tags, source.ranking)


def read(names: Mapping[str, str], tags: Tags, ranking: bool, row: Row) -> Example:
    """A row as an example: a conversation; with ``ranking``, or where no answer ends it, a prompt with two answers."""
    fields.check_media(row)
    turns = read_messages(fields.value(row, names["messages"]), names["messages"], tags, row)
    messages = turns if turns[0].role == "system" else (*fields.system(row, names["system"]), *turns)
    tools = fields.tools(row, names["tools"])
    if ranking or (turns[-1].role != "assistant" and fields.is_ranked(names, row.data)):
        return pair(messages, [read_answer(names[part], tags, row) for part in ("chosen", "rejected")], tools, row)
    return answered(messages, tools, fields.judgement(row, names), row)


def answered(messages: tuple[Message, ...], tools: tuple[ToolSpec, ...], desirable: bool | None, row: Row) -> Example:
    """A conversation, with what the row says of its answer.

    Raises:
        DataError: messages out of order.
    """
    check_order(messages, row, answered=True)
    return Example(row.where, messages=messages, tools=tools, desirable=desirable)


def pair(
    prompt: tuple[Message, ...], answers: Sequence[tuple[Message, ...]], tools: tuple[ToolSpec, ...], row: Row
) -> Example:
    """A prompt with a better and a worse answer.

    Raises:
        DataError: messages out of order.
    """
    check_order(prompt, row, answered=False)
    for answer in answers:
        check_order((*prompt, *answer), row, answered=True)
    chosen, rejected = answers
    return Example(row.where, messages=prompt, tools=tools, chosen=chosen, rejected=rejected)


def read_answer(column: str, tags: Tags, row: Row) -> tuple[Message, ...]:
    """One of two ranked answers: a text, a message, or a list of messages that begins with the assistant's."""
    answer = read_turns(column, "assistant", tags, row)
    if any(message.role != "assistant" for message in (answer[0], answer[-1])):
        raise DataError(f"{column!r} is not an answer", where=row.where, why="a ranked answer is the assistant's")
    return answer


def read_turns(column: str, role: Role, tags: Tags, row: Row) -> tuple[Message, ...]:
    """A text (said by ``role``), a message, or a list of messages."""
    given = fields.value(row, column)
    if isinstance(given, dict | list):
        return read_messages([given] if isinstance(given, dict) else given, column, tags, row)
    if role == "user":
        return (Message(role, fields.asked(given, column, row)),)
    return (Message(role, fields.target(fields.checked_text(given, column, row), column, row)),)


def read_messages(given: Any, column: str, tags: Tags, row: Row) -> tuple[Message, ...]:
    """The messages of a column, which must hold at least one."""
    listed = fields.parsed(given, column, row)
    if not isinstance(listed, list) or not all(isinstance(turn, dict) for turn in listed):
        raise DataError(
            f"{column!r} is {fields.kind(given)}: {fields.excerpt(repr(given))}",
            where=row.where,
            why="a conversation is a list of objects",
        )
    if not listed:
        raise DataError(f"{column!r} is empty", where=row.where, why="a conversation has messages")
    return tuple(read_message(turn, f"{column}[{index}]", tags, row) for index, turn in enumerate(listed))


def read_message(turn: Mapping[str, Any], name: str, tags: Tags, row: Row) -> Message:
    """One message; ``name`` says which."""
    for key in (tags.role, tags.content):
        if key not in turn and not (key == tags.content and turn.get("tool_calls")):
            raise DataError(
                f"{name} has no {key!r}",
                where=row.where,
                why="each message needs a role and a content",
                remedy=did_you_mean(key, turn) or f"it has {', '.join(map(str, turn)) or 'nothing'}; name tags",
            )
    role = _role(turn[tags.role], name, tags, row)
    calls = _calls(turn.get("tool_calls"), name, row)
    content = _content(turn.get(tags.content), name, bool(calls), row)
    if turn[tags.role] == tags.function and tags.roles[tags.function] == "assistant" and not calls:
        content, calls = "", _calls(fields.parsed(content, name, row), name, row)
    message = Message(role, content, calls, _reasoning(turn, name, row), *_learning(turn, name, row))
    if role == "user":
        fields.asked(content, name, row)
    if role == "assistant" and not calls and message.train is not False:
        fields.target(content, name, row)
    return message


def _role(tag: Any, name: str, tags: Tags, row: Row) -> Role:
    role = tags.roles.get(tag) if isinstance(tag, str) else None
    if role is None:
        raise DataError(
            f"{name} has the unknown role {fields.excerpt(repr(tag))}",
            where=row.where,
            why=f"the roles are {', '.join(tags.roles)}",
            remedy=did_you_mean(str(tag), tags.roles) or "name the roles of this data set in tags",
        )
    return role


def _content(given: Any, name: str, may_be_null: bool, row: Row) -> str:
    """A text, or a list of parts of which each is one; null beside tool calls."""
    if given is None and may_be_null:
        return ""
    if not isinstance(given, list):
        return fields.checked_text(given, name, row)
    for part in given:
        if not isinstance(part, dict) or part.get("type") != "text":
            what = part.get("type") if isinstance(part, dict) else part
            raise DataError(
                f"{name} has a part that is not text: {fields.excerpt(repr(what))}",
                where=row.where,
                why="only text is trained on",
            )
    return "".join(fields.checked_text(part.get("text"), name, row) for part in given)


def _calls(given: Any, name: str, row: Row) -> tuple[Mapping[str, Any], ...]:
    """Calls of functions, with their arguments as an object, which is what chat templates expect."""
    listed = given if isinstance(given, list) else [given] if given else []
    return tuple(_call(call, name, row) for call in listed)


def _call(given: Any, name: str, row: Row) -> Mapping[str, Any]:
    function = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            f"{name} calls no function: {fields.excerpt(repr(given))}",
            where=row.where,
            why='a call is {"name": …, "arguments": {…}}',
        )
    arguments = _arguments(function.get("arguments"), f"{name} arguments", row)
    kept = {"id": given["id"]} if isinstance(given.get("id"), str) else {}
    return {**kept, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _arguments(given: Any, name: str, row: Row) -> Mapping[str, Any]:
    """An object, or one as JSON in a text; null and an empty text are none."""
    arguments = fields.parsed({} if given is None or given == "" else given, name, row)
    if isinstance(arguments, dict):
        return arguments
    raise DataError(
        f"{name!r} is {fields.kind(arguments)}: {fields.excerpt(repr(arguments))}",
        where=row.where,
        why="the arguments of a call are an object of names and values",
    )


def _reasoning(turn: Mapping[str, Any], name: str, row: Row) -> str | None:
    given = next((turn[key] for key in REASONING if turn.get(key) is not None), None)
    return None if given is None else fields.checked_text(given, f"{name} reasoning", row)


def _learning(turn: Mapping[str, Any], name: str, row: Row) -> tuple[bool | None, float]:
    """What the message says of its own part in the loss: ``train`` and ``weight`` (0 is: not learned)."""
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise DataError(f"{name} has train: {fields.excerpt(repr(train))}", where=row.where, why="true or false")
    if weight is None:
        return train, 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= HEAVIEST:
        raise DataError(
            f"{name} has weight: {fields.excerpt(repr(weight))}",
            where=row.where,
            why=f"a number from 0 to {HEAVIEST:g}",
        )
    return (False, 1.0) if weight == 0 else (train, float(weight))


def check_order(messages: Sequence[Message], row: Row, *, answered: bool) -> None:
    """A system message only first; the user speaks first; nobody answers himself, except tools; an answer comes last.

    Raises:
        DataError: naming the first message out of order.
    """
    previous = "start"
    for index, message in enumerate(messages):
        if message.role not in FOLLOWS[previous]:
            raise DataError(
                _misplaced(index, message.role, previous),
                where=row.where,
                why="roles must alternate: an optional system message, then user and assistant in turn",
                remedy=f"expected a message from the {' or '.join(FOLLOWS[previous])}",
            )
        previous = message.role
    last = ("assistant",) if answered else ("user", "tool")
    if previous not in last:
        raise DataError(
            f"the conversation ends with a message from the {previous}",
            where=row.where,
            why=f"the last message must be from the {' or '.join(last)}",
        )


FOLLOWS: Final[Mapping[str, tuple[str, ...]]] = {
    "start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Who may speak after whom."""


def _misplaced(index: int, role: str, previous: str) -> str:
    said = f"message {index + 1} is from the {role}"
    if previous == "start":
        return f"{said}, at the start of the conversation"
    return (
        f"{said}, directly after {f'another {role} message' if role == previous else f'a message from the {previous}'}"
    )
