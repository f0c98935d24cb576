"""Fits a value as written to the type of its field, and says in words what a field accepts.

Only what loses nothing is converted: ``1e3`` to an integer, an integer to a float, the exact spelling of a number to
text, and text with commas to a list. ``true`` is not 1 and ``"8"`` is not 8.
"""

from __future__ import annotations

import math
import types
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from ft.config.flags import parse_text
from ft.config.scalars import parse_scalar

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ft.config.given import Given

_LISTS: Final = (list, tuple, set, frozenset)
_WORDS: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    type(None): "null",
    Any: "any value",
}
_BOUNDS: Final = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "multiple_of": "a multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "matching {}",
}


def members(annotation: Any) -> list[Any]:
    """The alternatives of a type, without unions and ``Annotated``: ``int | None`` gives ``[int, NoneType]``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for each in get_args(annotation) for member in members(each)]
    return [annotation]


def choices(annotation: Any) -> list[Any]:
    """The values a ``Literal`` in the type allows."""
    return [value for member in members(annotation) if get_origin(member) is Literal for value in get_args(member)]


def fit(given: Given, annotation: Any) -> Any:
    """The value in the form the type wants, or unchanged where it cannot be one: validation then says so."""
    value, kinds = given.value, _kinds(annotation)
    if isinstance(value, bool):
        # On a command line and in a variable text cannot be quoted, so `true` may be meant as a word.
        return given.text if given.source.kind != "file" and str in kinds and bool not in kinds else value
    if isinstance(value, str):
        return _fit_text(value, annotation)
    if isinstance(value, int | float):
        return _fit_number(value, given.text or str(value), annotation)
    if isinstance(value, list | dict) and given.text and str in kinds and kinds.isdisjoint((dict, *_LISTS)):
        return given.text
    return value


def flaw(value: Any, annotation: Any) -> str:
    """What is wrong with a fitted value although its type may be right; empty if nothing is."""
    if not _finite(value):
        return "not a finite number"
    if isinstance(value, str) and value.startswith("{") and dict in _kinds(annotation):
        return "a mapping that is not well-formed"
    return ""


def _kinds(annotation: Any) -> set[Any]:
    return {get_origin(member) or member for member in members(annotation)}


def _fit_text(text: str, annotation: Any) -> Any:
    kinds = _kinds(annotation)
    if text.startswith("{") and dict in kinds:
        return parse_text(text)
    return text if str in kinds or text in choices(annotation) else _split(text, annotation, text)


def _fit_number(value: float, text: str, annotation: Any) -> Any:
    kinds = _kinds(annotation)
    if float in kinds or (int in kinds and isinstance(value, int)):
        return value
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    return text if str in kinds or text in choices(annotation) else _split(text, annotation, value)


def _split(text: str, annotation: Any, otherwise: Any) -> Any:
    """Text with commas as a list, where the type has one."""
    for member in members(annotation):
        if (get_origin(member) or member) in _LISTS:
            item = next(iter(get_args(member)), str)
            words = [word.strip() for word in text.split(",") if word.strip()]
            return words if str in members(item) or choices(item) else [parse_scalar(word) for word in words]
    return otherwise


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def describe(field: FieldInfo) -> str:
    """What a field accepts, in words: ``a whole number, above 0, or null``."""
    accepted = members(field.annotation)
    words = [_describe(member) for member in accepted if member is not type(None)]
    bounds = [
        phrase.format(limit)
        for rule in field.metadata
        for name, phrase in _BOUNDS.items()
        if (limit := getattr(rule, name, None)) is not None
    ]
    text = ", ".join([" or ".join(words), *bounds])
    return f"{text}{',' if bounds else ''} or null" if type(None) in accepted else text


def _describe(member: Any) -> str:
    if get_origin(member) is Literal:
        return "one of " + ", ".join(map(_shown, get_args(member)))
    if (kind := get_origin(member) or member) in _LISTS:
        items = " or ".join(_describe(each) for each in members(next(iter(get_args(member)), str)))
        return f"a list of {items} (or text with commas)"
    return _WORDS.get(kind) or str(getattr(member, "__name__", member))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
