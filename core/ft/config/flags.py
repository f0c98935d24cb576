"""Values from the words of the command line and from ``FT_<KEY>`` environment variables."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ft.config.given import Given
from ft.config.scalars import parse_scalar
from ft.config.yaml_reader import parse_value
from ft.errors import ConfigError
from ft_hookspecs import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PREFIX: Final = "FT_"
RESERVED: Final = frozenset({"FT_DISABLE_PLUGINS", "FT_CACHE_DIR", "FT_TRACEBACK"})
"""Variables with a meaning of their own; every other ``FT_…`` variable is a key."""

_ASSIGNMENT: Final = re.compile(r"(?P<dashes>--)?(?P<key>[A-Za-z_][\w-]*)=(?P<text>.*)", re.DOTALL)
_FLAG: Final = re.compile(r"--(?P<key>[A-Za-z_][\w-]*)")
_STRUCTURED: Final = ("[", "{", '"', "'")


def from_arguments(arguments: Sequence[str]) -> tuple[list[tuple[str, Given]], list[ConfigError]]:
    """The keys that the words give, in order, and a problem for each word that gives none.

    A word after ``--key`` is its value unless it is itself an option or an assignment: ``--max_steps -1`` is a value,
    ``--plot_loss lora_rank=4`` is a flag and an assignment (write ``--optim_args=rank=64`` for a value with ``=``).
    """
    entries: list[tuple[str, Given]] = []
    problems: list[ConfigError] = []
    words = deque(arguments)
    while words:
        word = words.popleft()
        if match := _ASSIGNMENT.fullmatch(word):
            place = "--{}" if match["dashes"] else "command line: {}"
            entries.append(_entry(match["key"], match["text"], place))
        elif match := _FLAG.fullmatch(word):
            text = words.popleft() if words and not _begins_another(words[0]) else "true"
            entries.append(_entry(match["key"], text, "--{}"))
        else:
            problems.append(_stray(word, entries[-1] if entries else None))
    return entries, problems


def from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    """The keys that ``FT_<KEY>`` variables give."""
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in RESERVED:
            text = environ[name]
            yield name.removeprefix(PREFIX).lower(), Given(parse_text(text), Source("environment", name), text)


def parse_text(text: str) -> Any:
    """A word as a YAML value: a scalar, or a list or mapping in brackets; what is not YAML stays text."""
    if not text.startswith(_STRUCTURED):
        return parse_scalar(text)
    try:
        return parse_value(text)
    except ConfigError:
        return text


def _entry(key: str, text: str, place: str) -> tuple[str, Given]:
    key = key.replace("-", "_")
    return key, Given(parse_text(text), Source("command line", place.format(key)), text)


def _begins_another(word: str) -> bool:
    return bool(_ASSIGNMENT.fullmatch(word) or _FLAG.fullmatch(word))


def _stray(word: str, before: tuple[str, Given] | None) -> ConfigError:
    remedy = "write key=value or --key value"
    if before and not word.startswith("-"):
        remedy += f"; for several values of one key, commas: --{before[0]} {before[1].text},{word}"
    return ConfigError(f"'{word}' does not belong to any key", where="command line", remedy=remedy)
