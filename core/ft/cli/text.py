"""Plain text for people and JSON for programs. Colour only on a terminal, and never with ``NO_COLOR``."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def echo_json(value: object) -> None:
    """Indented JSON on standard output; what JSON cannot hold (a path, a dtype) is written as its text."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def colours(stream: TextIO) -> bool:
    """Whether the stream shows colour and boxes."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """The text in a colour, or as it is where standard output shows none."""
    return typer.style(text, fg=colour) if colours(sys.stdout) else text


def heading(text: str) -> None:
    """The title of a section, after an empty line."""
    typer.echo(f"\n{paint(text, 'cyan')}")


def columns(rows: Iterable[Sequence[Any]]) -> None:
    """Rows as indented columns, each as wide as its widest cell but the last."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        typer.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
