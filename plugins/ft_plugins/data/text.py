"""Plain text for pretraining: the column ``text``, or the one that ``columns`` names as ``prompt`` or ``text``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.errors import DataError
from ft_hookspecs import Example, hookimpl
from ft_plugins.data import fields

if TYPE_CHECKING:
    from ft_hookspecs import DatasetSource, FormatReader, Row

ft_api_version = 1


@hookimpl
def ft_read_format(source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    if fields.detect(source, columns) != "text":
        return None
    fields.check_untagged(source)
    names = fields.column_names(source, columns)
    column = names.get("text") or names.get("prompt") or "text"

    def read(row: Row) -> Example:
        text = fields.text(row, column)
        if not text.strip():
            raise DataError(
                f"empty text: {column!r}", where=row.where, why="there is nothing to learn from an empty text"
            )
        return Example(row.where, text=text)

    return read
