"""One value as it was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.errors import ConfigError

if TYPE_CHECKING:
    from ft_hookspecs import Source


@dataclass(frozen=True, slots=True)
class Given:
    """A value, its place, and the spelling of a plain word: ``text`` of ``1.10`` is ``"1.10"``, of ``[a]`` is none.

    ``written`` is the key in the file where it has another name here.
    """

    value: Any
    source: Source
    text: str | None = None
    written: str | None = None


Entries = Iterable[tuple[str, Given]]


def not_a_mapping(where: str) -> ConfigError:
    return ConfigError(
        "the configuration is not a mapping of keys to values", where=where, remedy="write one `key: value` per line"
    )
