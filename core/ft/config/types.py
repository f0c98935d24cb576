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
    value, accepted = given.value, members(annotation)
    kinds = {get_origin(member) or member for member in accepted}
    if isinstance(value, str):
        return _fit_text(value, given.text or value, accepted, kinds)
    if isinstance(value, int | float) and given.text is not None:
        return _fit_word(value, given.text, given.source.kind != "file", accepted, kinds)
    return value


def _fit_text(value: str, text: str, accepted: list[Any], kinds: set[Any]) -> Any:
    if value.startswith("{") and dict in kinds:
        return parse_text(value)
    if str not in kinds and value not in choices(Union[tuple(accepted)]):  # noqa: UP007 - built from a list
        return _split(value, accepted)
    return text if str in kinds and value == "" else value


def _fit_word(value: float, text: str, unquotable: bool, accepted: list[Any], kinds: set[Any]) -> Any:
    """A number or a boolean. ``unquotable``: on a command line and in a variable ``true`` may be meant as text."""
    if isinstance(value, bool):
        return text if unquotable and str in kinds and bool not in kinds else value
    if float in kinds or (int in kinds and isinstance(value, int)):
        return value
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if str in kinds or text in choices(Union[tuple(accepted)]):  # noqa: UP007 - built from a list
        return text
    return _split(text, accepted, value)


def _split(text: str, accepted: list[Any], otherwise: Any = None) -> Any:
    """Text with commas as a list, where the type has one."""
    for member in accepted:
        if (get_origin(member) or member) in _LISTS:
            item = next(iter(get_args(member)), str)
            words = [word.strip() for word in text.split(",") if word.strip()]
            return words if str in members(item) or choices(item) else [parse_scalar(word) for word in words]
    return text if otherwise is None else otherwise


def finite(value: Any) -> bool:
    """Whether no number in the value is NaN or infinite."""
    if isinstance(value, list):
        return all(map(finite, value))
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
