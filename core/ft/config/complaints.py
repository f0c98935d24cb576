"""The words of every complaint about a key or its value."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from ft.config.secrets import HIDDEN, redact
from ft.config.types import choices, describe, members
from ft.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from ft.config.given import Given
    from ft_hookspecs import PluginOptions, Source

_LONGEST_SHOWN: Final = 80
_YAML_1_1: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_OWN_WORDS: Final = ("value_error", "assertion_error")
"""Errors that a model's own validator worded."""

ALONE: Final = {"stages": "stage", "adapters": "finetuning_type"}
"""The kinds of which a run has one plugin, and the keys that name it."""


def claimed_twice(key: str, first: str, second: str) -> ConfigError:
    return ConfigError(
        f"the key '{key}' is declared twice",
        where=f"{first}; {second}",
        why="one key can have one meaning only",
        remedy="leave one of the two plugins out; a plugin begins its keys with its own name",
    )


def unselected(key: str, given: Given, owner: str) -> ConfigError:
    """``owner``: every plugin that declares the key, ``kind:name`` with commas."""
    kind, _, name = owner.split(", ")[0].partition(":")
    ways = f"select it, by its own key or with --plugin {kind}:{name}"
    if kind in ALONE:
        names = [each.partition(":")[2] for each in owner.split(", ") if each.startswith(f"{kind}:")]
        ways = f"set {ALONE[kind]}: {' or '.join(names)}"
    return ConfigError(
        f"'{key}'{_as_written(given)} is an option of the plugin {owner}, which this run does not select",
        where=str(given.source),
        remedy=f"{ways}, or take '{given.written or key}' out",
    )


def unknown(key: str, source: Source, known: Iterable[str]) -> ConfigError:
    remedy = did_you_mean(key, known) or "take it out; 'ft schema' lists every key of this run"
    return ConfigError(
        f"unknown key '{key}'", where=str(source), why="neither ft nor a selected plugin declares it", remedy=remedy
    )


def flawed(key: str, given: Given, what: str) -> ConfigError:
    return ConfigError(f"{key}: {what}", where=str(given.source), remedy="correct the value")


def of_validation(
    error: ValidationError, model: type[PluginOptions], given: Mapping[str, Given], path: str
) -> dict[str, ConfigError]:
    """One complaint for each key that validation refused, however many alternatives of its type were tried."""
    found: dict[str, ConfigError] = {}
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if key not in found:
            found[key] = _of_key(key, detail, model.model_fields[key], given, path) if key else _of_all(detail, given)
    return found


def _of_key(key: str, detail: ErrorDetails, info: FieldInfo, given: Mapping[str, Given], path: str) -> ConfigError:
    description = (info.description or "").strip()
    if detail["type"] == "missing":
        return ConfigError(
            f"the key '{key}' is required",
            where=path,
            why=description,
            remedy=f"write {key}: … in the file, or pass --{key} …",
        )
    if key not in given:
        return ConfigError(
            f"the default of '{key}' is not valid: {_reason(detail)}", remedy="report it to the plugin's author"
        )
    expected = f"expected {describe(info)}; given {_shown(key, given[key], info)}"
    return ConfigError(
        f"{key}{_as_written(given[key])}: {_reason(detail) if detail['type'] in _OWN_WORDS else expected}",
        where=str(given[key].source),
        why=description,
        remedy=_remedy(given[key].value, info),
    )


def _as_written(given: Given) -> str:
    return f" (written {given.written})" if given.written else ""


def _of_all(detail: ErrorDetails, given: Mapping[str, Given]) -> ConfigError:
    """A rule between keys; the places are those of the keys it names."""
    reason = _reason(detail)
    places = [str(given[key].source) for key in given if re.search(rf"\b{re.escape(key)}\b", reason)]
    return ConfigError(reason, where="; ".join(places))


def _reason(detail: ErrorDetails) -> str:
    error = detail.get("ctx", {}).get("error")
    return str(error) if error is not None else detail["msg"]


def _shown(key: str, given: Given, info: FieldInfo) -> str:
    secret = isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("secret")
    value = HIDDEN if secret else redact({key: given.value})[key]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _remedy(value: Any, info: FieldInfo) -> str:
    if value is None:
        return "take the line out to use the default"
    if isinstance(value, list) and str in members(info.annotation):
        return f"write it as text: {' '.join(map(str, value))}"
    if isinstance(value, str):
        return _respelt(value, info)
    return ""


def _respelt(value: str, info: FieldInfo) -> str:
    """What text was meant to be: a choice misspelt, a quoted number, or a word of YAML 1.1 (``yes``, ``2_048``)."""
    if meant := did_you_mean(value, [each for each in choices(info.annotation) if isinstance(each, str)]):
        return meant
    if bool in members(info.annotation) and value.lower() in _YAML_1_1:
        return f"write {_YAML_1_1[value.lower()]}"
    if re.fullmatch(r"[-+\d.eE_]+|true|false", value, re.IGNORECASE):
        return f"write {value.replace('_', '')} without {'_' if '_' in value else 'quotes'}"
    return ""
