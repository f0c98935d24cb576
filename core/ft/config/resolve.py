"""Merges the option models of a composition and checks every value that was given against them, in one report."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ft.config import complaints, legacy
from ft.config.secrets import is_secret
from ft.config.types import fit, flaw, members
from ft.errors import ConfigError, FtError, Problems
from ft_hookspecs import PluginOptions, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydantic.fields import FieldInfo

    from ft.config.given import Given
    from ft.config.settings import Settings

    Owned = tuple[type[PluginOptions], str]
    OwnerOf = Callable[[str], str | None]

LIBRARY = "transformers"
"""The owner whose defaults are the library's, not a plugin's."""


@dataclass(frozen=True)
class Resolved:
    """A checked configuration: every key of the composition, plain as in JSON, with its source.

    ``models`` holds the same values typed, one instance for each option model. ``secrets`` names the keys whose values
    must not be shown. ``notes`` says what was translated from older names or has no effect.
    """

    values: dict[str, Any]
    sources: dict[str, Source]
    models: tuple[PluginOptions, ...]
    notes: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()


@dataclass
class _Claims:
    """Which model declares which key. A model that several plugins share is merged once."""

    models: dict[type[PluginOptions], str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    fields: dict[str, FieldInfo] = field(default_factory=dict)
    problems: list[FtError] = field(default_factory=list)

    def add(self, model: type[PluginOptions], owner: str) -> None:
        if model in self.models:
            return
        self.models[model] = owner
        for key, info in model.model_fields.items():
            if key in self.owners:
                self.problems.append(complaints.claimed_twice(key, self.owners[key], owner))
            else:
                self.owners[key], self.fields[key] = owner, info


def resolve(
    settings: Settings,
    models: Sequence[Owned],
    owner_of: OwnerOf = lambda _: None,
    *,
    partial: bool = False,
) -> Resolved:
    """Every key of the composition with its value and source.

    Args:
        settings: what was given.
        models: the option models, each with its owner in words (``"ft"``, ``"plugin 'lora' (…)"``, ``"transformers"``).
        owner_of: the unselected plugin (``kind:name``) that declares a key, if there is one.
        partial: nothing is reported: a value that is missing or wrong stays out or takes its default. For a first look
            at the keys that select plugins; the full resolution that follows reports everything.

    Raises:
        Problems: everything that is wrong, each with its place.
    """
    claims = _Claims()
    for model, owner in models:
        claims.add(model, owner)
    merged = legacy.translate([_negated(level, claims.fields) for level in settings.levels], claims.fields)
    problems: list[FtError] = [*settings.problems, *claims.problems]
    for key in [key for key in merged.given if key not in claims.fields]:
        problems += _unknown(key, merged.given.pop(key), merged, claims, owner_of)
    instances = [_instance(model, merged.given, problems, partial, settings) for model in claims.models]
    problems += merged.problems
    if problems and not partial:
        raise Problems(sorted(problems, key=_place))
    return _resolved(claims, merged, tuple(filter(None, instances)))


def _resolved(claims: _Claims, merged: legacy.Translated, instances: tuple[PluginOptions, ...]) -> Resolved:
    values = {key: value for each in instances for key, value in each.model_dump(mode="json", warnings=False).items()}
    sources = {
        key: merged.given[key].source if key in merged.given else _default_source(claims.owners[key]) for key in values
    }
    secrets = {key for key, info in claims.fields.items() if is_secret(key) or _marked_secret(info)}
    return Resolved(values, sources, instances, tuple(merged.notes), frozenset(secrets))


def _default_source(owner: str) -> Source:
    return Source("library default" if owner == LIBRARY else "plugin default", f"default of {owner}")


def _marked_secret(info: FieldInfo) -> bool:
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("secret"))


def _negated(level: Mapping[str, Given], fields: Mapping[str, FieldInfo]) -> dict[str, Given]:
    """``--no_plot_loss`` as ``plot_loss: false``, where only that can be meant."""
    negated = {}
    for key, given in level.items():
        positive = key.removeprefix("no_")
        is_flag = given.value is True and given.source.where == f"--{key}" and key not in fields
        if is_flag and positive not in level and positive in fields and bool in members(fields[positive].annotation):
            negated[positive] = replace(given, value=False, text="false")
        else:
            negated[key] = given
    return negated


def _unknown(
    key: str, given: Given, merged: legacy.Translated, claims: _Claims, owner_of: OwnerOf
) -> Iterable[ConfigError]:
    """What to say of a key that no model of the composition declares; nothing where a note is enough."""
    owner = owner_of(key)
    if legacy.settle(key, given, merged, owner):
        return
    if owner:
        yield complaints.unselected(key, given, owner)
    else:
        yield complaints.unknown(key, given.source, {*claims.fields, *legacy.usable_names()})


def _instance(
    model: type[PluginOptions],
    given: Mapping[str, Given],
    problems: list[FtError],
    partial: bool,
    settings: Settings,
) -> PluginOptions | None:
    """The model filled with what was given; what does not fit is added to the problems."""
    own = {key: given[key] for key in given if key in model.model_fields}
    values = {key: fit(each, model.model_fields[key].annotation) for key, each in own.items()}
    flaws = {key: flaw(value, model.model_fields[key].annotation) for key, value in values.items()}
    bad = {key: complaints.flawed(key, own[key], what) for key, what in flaws.items() if what}
    instance: PluginOptions | None
    try:
        instance = _validate(model, {key: value for key, value in values.items() if key not in bad})
    except ValidationError as error:
        bad |= complaints.of_validation(error, model, own, str(settings.path or ""))
        instance = _without(model, values, bad) if partial else None
    problems += bad.values()
    return instance


def _validate(model: type[PluginOptions], values: Mapping[str, Any]) -> PluginOptions:
    """Strict, and as JSON: what a file can hold becomes a path, an enumeration or a tuple, but text never a number."""
    return model.model_validate_json(json.dumps(values), strict=True)


def _without(model: type[PluginOptions], values: Mapping[str, Any], bad: Mapping[str, Any]) -> PluginOptions:
    """An instance in which the values that are wrong have their defaults and those that are required are absent."""
    good = {key: value for key, value in values.items() if key not in bad}
    try:
        return _validate(model, good)
    except ValidationError:
        return model.model_construct(**good)


def _place(problem: FtError) -> tuple[str, int]:
    """Problems stand in the order of the file."""
    match = re.fullmatch(r"(.*):(\d+)", problem.where)
    return (match[1], int(match[2])) if match else (problem.where, 0)
