"""The values that were given, before anyone knows which keys exist: each with its place and its exact spelling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ft.config.flags import from_arguments, from_environment
from ft.config.given import Given
from ft.config.source import read_file
from ft.errors import ConfigError
from ft_hookspecs import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from ft.config.given import Entries


@dataclass(frozen=True)
class Settings:
    """What the file, the environment and the command line say, the weakest level first.

    ``problems`` is what is wrong with the writing itself (a key given twice, a stray word); :func:`ft.config.resolve`
    reports it with the rest.
    """

    levels: tuple[Mapping[str, Given], ...] = ()
    problems: tuple[ConfigError, ...] = ()
    path: Path | None = None

    def by_default(self, key: str, value: Any, why: str) -> Settings:
        """The same settings with a value for ``key`` wherever none was given."""
        return replace(self, levels=({key: Given(value, Source("plugin default", why))}, *self.levels))

    def given(self) -> dict[str, Any]:
        """The value of every key, known or not, as it was written; the strongest level's."""
        return {key: each.value for level in self.levels for key, each in level.items()}

    def place(self, key: str) -> str:
        """Where the strongest level gives a value to ``key``: ``file:line``, a flag, a variable; empty if none does."""
        return next((str(level[key].source) for level in reversed(self.levels) if key in level), "")

    def only(self, keys: Collection[str]) -> Settings:
        """The same settings without any other key."""
        levels = tuple({key: given for key, given in level.items() if key in keys} for level in self.levels)
        return replace(self, levels=levels)


def gather(config_path: Path | None, arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Everything that was given: command line over ``FT_<KEY>`` variables over the file.

    Args:
        config_path: a YAML or JSON file, or none.
        arguments: ``key=value``, ``--key value``, ``--key=value`` and ``--flag`` words, mixed.
        environ: the environment.

    Raises:
        ConfigError: the file cannot be read or is malformed.
    """
    entries, problems = from_arguments(arguments)
    written = (read_file(config_path) if config_path else (), from_environment(environ), entries)
    levels = [_level(each, problems) for each in written]
    return Settings(tuple(levels), tuple(problems), config_path)


def _level(entries: Entries, problems: list[ConfigError]) -> dict[str, Given]:
    """The entries by key; a key that stands there twice is a problem."""
    level: dict[str, Given] = {}
    for key, given in entries:
        if first := level.get(key):
            problems.append(
                ConfigError(
                    f"the key '{key}' is given twice",
                    where=str(given.source),
                    why=f"it was given before: {first.source}",
                    remedy="keep one of the two",
                )
            )
        else:
            level[key] = given
    return level
