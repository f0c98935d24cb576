"""Reads YAML 1.2 with the line and the spelling of each key's value.

Values are built from the parser's events: only there are plain words still as they were written. A loader would apply
rules of its own to them (dates, ``1_000``) and lose the spelling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from ft.config.given import Given, not_a_mapping
from ft.config.scalars import parse_scalar
from ft.errors import ConfigError
from ft_hookspecs import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ruamel.yaml.events import Event

_YAML_ORG: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = {_YAML_ORG + name for name in ("int", "float", "bool", "null")}
_TAGS: Final = _PLAIN_TAGS | {_YAML_ORG + name for name in ("str", "seq", "map")} | {"!", None}
_DEEPEST: Final = 32


def entries(text: str, name: str) -> Iterator[tuple[str, Given]]:
    from ruamel.yaml.events import MappingEndEvent, MappingStartEvent

    reader = YamlReader(text, name)
    if not reader.events:
        return
    if not isinstance(reader.next(), MappingStartEvent):
        raise not_a_mapping(f"{name}:1")
    while not isinstance(event := reader.next(), MappingEndEvent):
        key = reader.key(event)
        source = Source("file", reader.place(event))
        spelling = reader.spelling()
        yield key, Given(reader.value(reader.next()), source, spelling)


def parse_value(text: str) -> Any:
    """One YAML value, such as ``[a, b]`` or ``{"min_lr": 1e-5}``.

    Raises:
        ConfigError: the text is not YAML.
    """
    reader = YamlReader(text, "value")
    return reader.value(reader.next())


class YamlReader:
    """The events of one document, consumed from the first on."""

    def __init__(self, text: str, name: str) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        self._name = name
        self.events: list[Event] = []
        try:
            self._read(YAML(typ="safe", pure=True).parse(text))
        except YAMLError as error:
            self._malformed(error)
        self.events.reverse()

    def _read(self, events: Iterable[Event]) -> None:
        """Keep the events that make up the value. The parser takes quadratic time in depth, so depth is bounded."""
        from ruamel.yaml.events import (
            CollectionEndEvent,
            CollectionStartEvent,
            DocumentStartEvent,
            NodeEvent,
        )  # fmt: skip

        documents = depth = 0
        for event in events:
            documents += isinstance(event, DocumentStartEvent)
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if documents > 1:
                self._refuse(event, "the file holds several YAML documents", "keep one")
            if depth > _DEEPEST:
                self._refuse(event, "the file nests too deeply", f"nest at most {_DEEPEST} levels")
            if isinstance(event, NodeEvent | CollectionEndEvent):
                self.events.append(event)

    def next(self) -> Event:
        return self.events.pop()

    def spelling(self) -> str | None:
        """The next event as it is written, if it is a plain word."""
        from ruamel.yaml.events import ScalarEvent

        event = self.events[-1]
        return str(event.value) if isinstance(event, ScalarEvent) and event.style is None else None

    def place(self, event: Event) -> str:
        return f"{self._name}:{event.start_mark.line + 1}"

    def key(self, event: Event) -> str:
        from ruamel.yaml.events import ScalarEvent

        if not isinstance(event, ScalarEvent):
            self._refuse(event, "a key is not a plain word", "write key: value")
        return str(event.value)

    def value(self, event: Event) -> Any:
        """The value that begins with this event."""
        from ruamel.yaml.events import AliasEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            self._refuse(event, "anchors and aliases (&, *) are not read", "write the value out")
        tag = getattr(event, "tag", None)
        if tag not in _TAGS:
            self._refuse(event, f"the tag {tag} is not allowed", "write a plain value")
        if isinstance(event, ScalarEvent):
            plain = tag in _PLAIN_TAGS or (tag is None and event.style is None)
            return parse_scalar(event.value) if plain else str(event.value)
        if isinstance(event, SequenceStartEvent):
            items = []
            while not isinstance(event := self.next(), SequenceEndEvent):
                items.append(self.value(event))
            return items
        return self._mapping()

    def _mapping(self) -> dict[str, Any]:
        from ruamel.yaml.events import MappingEndEvent

        values: dict[str, Any] = {}
        while not isinstance(event := self.next(), MappingEndEvent):
            key = self.key(event)
            if key in values:
                self._refuse(event, f"the key '{key}' is given twice", "keep one of the two")
            values[key] = self.value(self.next())
        return values

    def _refuse(self, event: Event, what: str, remedy: str) -> NoReturn:
        raise ConfigError(what, where=self.place(event), remedy=remedy)

    def _malformed(self, error: Exception) -> NoReturn:
        mark = getattr(error, "problem_mark", None)
        where = f"{self._name}:{mark.line + 1}:{mark.column + 1}" if mark else self._name
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        remedy = "indent with spaces, not tabs" if "'\\t'" in why else "check quotes, brackets, colons and indentation"
        raise ConfigError("malformed YAML", where=where, why=why, remedy=remedy) from None
