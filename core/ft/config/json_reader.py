"""Reads JSON with the line of each key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ft.config.given import Given, not_a_mapping
from ft.errors import ConfigError
from ft_hookspecs import Source

if TYPE_CHECKING:
    from collections.abc import Iterator


def entries(text: str, name: str) -> Iterator[tuple[str, Given]]:
    if not text.strip():
        return
    _check_json(text, name)
    at = _skip(text, 0)
    if text[at] != "{":
        raise not_a_mapping(f"{name}:1")
    at = _skip(text, at + 1)
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    while text[at] != "}":
        source = Source("file", f"{name}:{text.count(chr(10), 0, at) + 1}")
        key, colon = decoder.raw_decode(text, at)
        begin = _skip(text, _skip(text, colon) + 1)
        try:
            value, end = decoder.raw_decode(text, begin)
        except _RepeatedKeyError as error:
            raise ConfigError(
                f"the key '{error}' is given twice", where=str(source), remedy="keep one of the two"
            ) from None
        yield key, Given(value, source, None if isinstance(value, str | list | dict) else text[begin:end])
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _check_json(text: str, name: str) -> None:
    """After this the text is known to be well-formed, so that walking it needs no check of its own."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            "malformed JSON",
            where=f"{name}:{error.lineno}:{error.colno}",
            why=error.msg,
            remedy="check quotes, commas and brackets; JSON has no comments and no comma after the last value",
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError("malformed JSON", where=name, why=str(error)) from None


def _skip(text: str, at: int) -> int:
    """The first position from ``at`` on that is not JSON white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


class _RepeatedKeyError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return values
