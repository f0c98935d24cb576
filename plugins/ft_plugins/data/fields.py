"""Values of a row, checked: what the formats have in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ft.errors import DataError, did_you_mean
from ft_hookspecs import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ft_hookspecs import DatasetSource, Row, ToolSpec

MEDIA: Final = ("images", "videos", "audios")
COLUMNS: Final = (
    *("prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected", "kto_tag", "text"),
    *MEDIA,
)
"""What ``columns`` of ``dataset_info.json`` may name."""

PROMPTED: Final = ({"chosen", "rejected"}, {"prompt", "completion"})
"""Columns by which the shapes of TRL are known."""
PROMPT_ONLY: Final = {"prompt", "tools", "id"}
"""A row with these columns alone asks for an answer."""


def detect(source: DatasetSource, columns: Iterable[str]) -> str:
    """The format of a source: as declared, else the one that its named columns or its columns tell, else empty."""
    return source.formatting or _by_named(source, set(columns)) or _by_columns(set(columns))


def _by_named(source: DatasetSource, columns: set[str]) -> str:
    named = source.columns
    if "messages" in named:
        return "openai" if named["messages"] == "messages" and not source.tags else "sharegpt"
    if named.keys() & {"response", "query", "history", "chosen", "rejected"}:
        return "alpaca"
    if "prompt" in named:  # a prompt without an answer is plain text
        return "alpaca" if source.ranking or "output" in columns else "text"
    return "text" if "text" in named else ""


def _by_columns(columns: set[str]) -> str:
    fits = [
        *(["alpaca"] if "instruction" in columns and columns & {"output", "chosen"} else []),
        *(["sharegpt"] if "conversations" in columns else []),
        *(["openai"] if "messages" in columns else []),
    ]
    if not fits:
        fits = [
            *(["trl"] if any(shape <= columns for shape in PROMPTED) or columns <= PROMPT_ONLY else []),
            *(["text"] if "text" in columns else []),
        ]
    return fits[0] if len(fits) == 1 else ""


def is_ranked(names: Mapping[str, str], columns: Iterable[str], answer: str = "") -> bool:
    """Whether a source that says nothing of ``ranking`` has the columns of pairs, and none of one ``answer``."""
    present = set(columns)
    return {names["chosen"], names["rejected"]} <= present and answer not in present


def column_names(source: DatasetSource, columns: Iterable[str], **defaults: str) -> dict[str, str]:
    """What each part of a sample is called in this source: as named there, else ``defaults``.

    Raises:
        DataError: ``columns`` names an unknown part, a medium, or a column that is probably misspelt.
    """
    present = list(columns)
    for part, column in source.columns.items():
        if part in MEDIA:
            raise DataError(
                f"the data set {source.name!r} has {part}",
                where=source.declared_at,
                why="only text is trained on",
                remedy=f"take {part} out of its columns to train on its text alone",
            )
        if part not in COLUMNS:
            raise DataError(
                f"columns of {source.name!r} names an unknown part {part!r}",
                where=source.declared_at,
                remedy=did_you_mean(part, COLUMNS) or f"the parts are {', '.join(COLUMNS)}",
            )
        if column not in present and (hint := did_you_mean(column, present)):
            raise DataError(
                f"the data set {source.name!r} has no column {column!r}", where=source.declared_at, remedy=hint
            )
    tag = {"kto_tag": "kto_tag"} if "kto_tag" in present else {}
    return {**tag, **defaults, **source.columns}


def check_untagged(source: DatasetSource) -> None:
    """Refuse names of roles where there are no messages.

    Raises:
        DataError: the source names tags.
    """
    if source.tags:
        raise DataError(
            f"tags of {source.name!r} do nothing",
            where=source.declared_at,
            why="they name the keys and roles of messages, and the rows of this format have none",
            remedy="take tags out, or declare formatting: sharegpt",
        )


def value(row: Row, column: str) -> Any:
    """The value of a column that must be there."""
    if column in row.data:
        return row.data[column]
    raise DataError(
        f"no column {column!r}",
        where=row.where,
        why="a column that the format needs is missing",
        remedy=did_you_mean(column, row.data)
        or f"the row has {', '.join(map(str, row.data)) or 'none'}; name it in `columns`",
    )


def check_media(row: Row) -> None:
    """Refuse a row that has more than text: without its pictures it would say something else.

    Raises:
        DataError: it has images, videos or audios.
    """
    for medium in MEDIA:
        if row.data.get(medium):
            raise DataError(
                f"the row has {medium}",
                where=row.where,
                why="only text is trained on",
                remedy=f"take the column {medium} out of the data to train on its text alone",
            )


def text(row: Row, column: str) -> str:
    """A column that must be a text."""
    return checked_text(value(row, column), column, row)


def asked(given: Any, name: str, row: Row) -> str:
    """What the user says, which must be something."""
    question = checked_text(given, name, row)
    if question.strip():
        return question
    raise DataError(f"empty prompt: {name!r}", where=row.where, why="the user must say something")


def optional_text(row: Row, column: str) -> str:
    """A column that may be missing or null: then empty."""
    given = row.data.get(column)
    return "" if given is None else checked_text(given, column, row)


def checked_text(given: Any, name: str, row: Row) -> str:
    """``given`` if it is a text that can be written as UTF-8."""
    if not isinstance(given, str):
        raise DataError(
            f"{name!r} is {kind(given)}: {excerpt(repr(given))}",
            where=row.where,
            why="a text is needed",
            remedy="write it in quotes" if isinstance(given, int | float) else "give a text",
        )
    if "\0" in given:
        raise DataError(
            f"{name!r} holds a NUL character",
            where=row.where,
            why="text does not contain one: the file is damaged, or not UTF-8 (UTF-16 looks like that)",
        )
    if not given.isascii() and any("\ud800" <= character <= "\udfff" for character in given):
        raise DataError(
            f"{name!r} holds half of a character", where=row.where, why="a lone surrogate is not valid Unicode"
        )
    return given


def target(given: str, name: str, row: Row) -> str:
    """A text to learn, which must not be empty."""
    if given.strip():
        return given
    raise DataError(
        f"empty target: {name!r}", where=row.where, why="there is nothing to learn from an empty answer",
        remedy="write the answer, or take the row out",
    )  # fmt: skip


def truth(row: Row, column: str) -> bool:
    """A column that must be true or false."""
    given = value(row, column)
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.lower() in ("true", "false"):  # a csv file has only texts
        return given.lower() == "true"
    raise DataError(f"{column!r} is {excerpt(repr(given))}", where=row.where, why="true or false is needed")


def judgement(row: Row, names: Mapping[str, str], usual: str = "kto_tag") -> bool | None:
    """What the row says of its answer; ``None`` where no column for that is known and this row has not the usual one.

    A column that a row has and the first row has not counts too: a bad answer must not pass for one without judgement.
    """
    column = names.get("kto_tag", usual)
    return truth(row, column) if "kto_tag" in names or column in row.data else None


def parsed(given: Any, name: str, row: Row) -> Any:
    """A value that may stand as JSON in a text."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name!r} is not valid JSON: {excerpt(given)}",
            where=row.where,
            why=getattr(error, "msg", type(error).__name__),
        ) from None


def tools(row: Row, column: str) -> tuple[ToolSpec, ...]:
    """Descriptions of tools: a list, or a list as JSON in a text; a bare function is wrapped as templates expect it."""
    given = row.data.get(column)
    listed = parsed([] if given is None or given == "" else given, column, row)
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise DataError(f"{column!r} is not a list of objects", where=row.where, why="tools are a list of objects")
    described = tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in listed)
    for tool in described:
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(
                f"{column!r} holds {excerpt(repr(tool))}",
                where=row.where,
                why="a tool is a function with a name",
                remedy='write {"type": "function", "function": {"name": …, "parameters": {…}}}',
            )
    return described


def system(row: Row, column: str) -> tuple[Message, ...]:
    """The system message of a column, if the row has one."""
    content = optional_text(row, column)
    return (Message("system", content),) if content else ()


def kind(given: Any) -> str:
    """What a value is, in the words of JSON."""
    names: Mapping[type, str] = {
        type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list",
        dict: "an object",
    }  # fmt: skip
    return names.get(type(given), f"a {type(given).__name__}")


def excerpt(given: str, size: int = 60) -> str:
    """The beginning of a text on one line."""
    line = " ".join(given[: size + 1].split())
    return line if len(given) <= size else f"{line[: size - 1]}…"
