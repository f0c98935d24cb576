"""Keys of other files: what they are called here, what is no longer needed, and what this version does not have.

The table is ``legacy.json``:

- ``renamed`` maps a key to today's ``key``. ``values`` are all that it may have, and what they are now; ``also`` are
  some of them. ``neutral`` asks for nothing, and neither does ``yields`` of today's key beside it.
- ``settled`` holds keys whose question has one answer, even where transformers asks it still: the values that agree
  with it, and why.
- ``plugins`` holds keys of plugins that a run may not select, each with the value (or a list of values) that asks for
  nothing: LLaMA-Factory's default.
- ``unavailable`` holds keys that this version does not have, in groups with one reason and one remedy, with the same.

A key that some option model declares is never looked up here. Nothing is translated or left out without a note.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ft.config.secrets import redact
from ft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ft.config.given import Given

_ABSENT = object()
_ANY = "any"


@dataclass(frozen=True)
class Answer:
    """What is said of a key that is no option: the values that ask for nothing, why, and what to do with any other."""

    neutral: Any
    why: str
    remedy: str = ""

    def agrees(self, value: Any) -> bool:
        """Whether the value asks for nothing that is not so anyway."""
        return self.neutral == _ANY or value is None or any(_same(value, each) for each in self.neutral)


@dataclass
class Translated:
    """One value for each key, the strongest level's, in today's names."""

    given: dict[str, Given] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[ConfigError] = field(default_factory=list)


@cache
def table() -> Mapping[str, Any]:
    """The parts of ``legacy.json``."""
    return json.loads(files("ft.config").joinpath("legacy.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]  # json


@cache
def answers() -> Mapping[str, Answer]:
    """Every key of the table that is not renamed."""
    found = {key: Answer(*entry) for key, entry in table()["settled"].items()}
    groups = ({"why": "no plugin of this run has it", "keys": table()["plugins"]}, *table()["unavailable"])
    for group in groups:
        for key, neutral in group["keys"].items():
            values = neutral if isinstance(neutral, list) else [neutral]
            found[key] = Answer(values, group["why"], group.get("remedy", ""))
    return found


def usable_names() -> set[str]:
    """Keys of the table that some run heeds, under this name or another: what a misspelt one may have meant."""
    return {*table()["renamed"], *table()["plugins"]}


def todays_name(key: str) -> str:
    """What a key is called now."""
    return str(table()["renamed"].get(key, {}).get("key", key))


def answered_keys() -> set[str]:
    """Keys that stand for another key or have one answer: no options, even where transformers has them."""
    return {*table()["renamed"], *table()["settled"]}


def translate(levels: Iterable[Mapping[str, Given]], known: Collection[str]) -> Translated:
    """Merge the levels, the strongest last, each first brought to today's names.

    Args:
        levels: what was given, level by level.
        known: keys that some option model declares, so that they are never old names.
    """
    merged = Translated()
    for level in levels:
        merged.given.update(_one_level(level, known, merged))
    return merged


def settle(key: str, given: Given, merged: Translated, owner: str | None = None) -> bool:
    """Note or refuse a key without a successor.

    False when the table does not know it, or when it asks an ``owner``, a plugin that was not selected, for something.
    """
    answer = answers().get(key)
    if answer is None:
        return False
    if answer.agrees(given.value):
        foreign = owner and key in table()["plugins"]
        why = f"it belongs to {owner}, which this run does not use" if foreign else answer.why
        merged.notes.append(f"{given.source}: {key} has no effect: {why}")
    elif owner:
        return False
    else:
        merged.problems.append(_refused(key, given, answer))
    return True


def _refused(key: str, given: Given, answer: Answer) -> ConfigError:
    allowed = " or ".join(json.dumps(each) for each in answer.neutral)
    return ConfigError(
        f"{_pair(key, given.value)} is not available",
        where=str(given.source),
        why=answer.why,
        remedy=answer.remedy or f"take the key out (only {allowed} is accepted)",
    )


def _one_level(level: Mapping[str, Given], known: Collection[str], merged: Translated) -> dict[str, Given]:
    today = {key: given for key, given in level.items() if key in known or key not in table()["renamed"]}
    for key in [key for key in level if key not in today]:
        rule, given = table()["renamed"][key], level[key]
        new, value = rule["key"], _translated(rule, given.value)
        if _same(given.value, rule.get("neutral", _ABSENT)) or given.value is None:
            merged.notes.append(f"{given.source}: {_pair(key, given.value)} has no effect; the key is now {new}")
        elif value is _ABSENT:
            merged.problems.append(_untranslatable(key, new, rule, given))
        elif new in today and not any(_same(today[new].value, each) for each in (value, rule.get("yields", _ABSENT))):
            merged.problems.append(_conflict(key, new, given, today[new]))
        else:
            same_text = given.text if value == given.value else None
            today[new] = replace(given, value=value, text=same_text, written=key)
            merged.notes.append(f"{given.source}: {key} is now {new}; read as {_pair(new, value)}")
    return today


def _translated(rule: Mapping[str, Any], value: Any) -> Any:
    """The new value of an old one; ``_ABSENT`` when there is none."""
    if "values" in rule:
        return rule["values"].get(json.dumps(value), _ABSENT)
    if "also" in rule:
        return rule["also"].get(json.dumps(value), value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _ABSENT if "below" in rule and is_number and not 0 <= value < rule["below"] else value


def _untranslatable(key: str, new: str, rule: Mapping[str, Any], given: Given) -> ConfigError:
    accepted = f"from 0 to below {rule['below']}" if "below" in rule else " or ".join(rule["values"])
    return ConfigError(
        f"{_pair(key, given.value)} cannot be read as {new}",
        where=str(given.source),
        why=f"{key} was renamed; its value is {accepted}",
        remedy=f"write {new} instead",
    )


def _conflict(key: str, new: str, given: Given, other: Given) -> ConfigError:
    return ConfigError(
        f"{key} and {new} are both given",
        where=str(given.source),
        why=f"{key} is the old name of {new}, which is given too: {other.source}",
        remedy=f"keep {new}",
    )


def _same(value: Any, neutral: Any) -> bool:
    """Equality in which ``true`` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _pair(key: str, value: Any) -> str:
    shown = redact({key: value})[key]
    return f"{key}: {shown if isinstance(shown, str) else json.dumps(shown)}"
