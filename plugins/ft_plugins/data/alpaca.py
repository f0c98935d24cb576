"""The alpaca format: ``instruction``, ``input``, ``output``, and if wanted ``system`` and ``history``.

The user says the instruction, a line break, and the input. ``history`` is a list of [user, assistant] pairs. With
``ranking``, or where there is no ``output``, the answers are the columns ``chosen`` and ``rejected``; a column for
``kto_tag`` says whether the answer is a good one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ft.errors import DataError
from ft_hookspecs import Example, Message, hookimpl
from ft_plugins.data import fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import DatasetSource, FormatReader, Row

ft_api_version = 1

DEFAULTS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
}


@hookimpl
def ft_read_format(source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    if fields.detect(source, columns) != "alpaca":
        return None
    fields.check_untagged(source)
    names = fields.column_names(source, columns, **DEFAULTS)
    ranked = source.ranking or fields.is_ranked(names, columns, names["response"])
    return partial(read_pair if ranked else read_answer, names)


def read_answer(names: Mapping[str, str], row: Row) -> Example:
    """A row with one answer."""
    return Example(
        row.where,
        messages=(*prompt(names, row), answer(names["response"], row)),
        tools=fields.tools(row, names["tools"]),
        desirable=fields.judgement(row, names),
    )


def read_pair(names: Mapping[str, str], row: Row) -> Example:
    """A row with a better and a worse answer."""
    return Example(
        row.where,
        messages=prompt(names, row),
        tools=fields.tools(row, names["tools"]),
        chosen=(answer(names["chosen"], row),),
        rejected=(answer(names["rejected"], row),),
    )


def answer(column: str, row: Row) -> Message:
    return Message("assistant", fields.target(fields.text(row, column), column, row))


def prompt(names: Mapping[str, str], row: Row) -> tuple[Message, ...]:
    """Everything before the answer."""
    fields.check_media(row)
    parts = (fields.text(row, names["prompt"]), fields.optional_text(row, names["query"]))
    asked = fields.asked("\n".join(part for part in parts if part), names["prompt"], row)
    return (*fields.system(row, names["system"]), *history(names["history"], row), Message("user", asked))


def history(column: str, row: Row) -> Iterator[Message]:
    """Earlier turns."""
    pairs = fields.parsed(row.data.get(column) or [], column, row)
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise DataError(
            f"{column!r} holds {fields.excerpt(repr(pairs))}",
            where=row.where,
            why="history is a list of [user, assistant] pairs",
        )
    for asked, answered in pairs:
        yield Message("user", fields.asked(asked, column, row))
        yield Message("assistant", fields.target(fields.checked_text(answered, column, row), column, row))
