"""Spans of conversations without rendering each turn again.

Where the turns of a conversation stand in its text is learned once for each sequence of roles: a conversation of unlike
placeholders is rendered turn by turn, as :mod:`ft.data.spans` does it, and what stands between the placeholders is kept
as an *outline*. A real conversation is then rendered once. If that text is the outline filled with its messages, its
spans are those of the outline; if not (the template reads what a message says), it is rendered turn by turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from ft.data.spans import Rendered, Span, render_whole
from ft.errors import DataError
from ft_hookspecs import Example, Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ft_hookspecs import Role, Template

Place = tuple[int, int]
"""How many messages stand before a place in the text, and how many characters beyond them it is."""

KEPT: Final = 4096
"""Outlines kept; a data set has as many as it has sequences of roles."""

PADDINGS: Final = (("", ""), (" \n", "\n "), ("<think>\nx\n</think>\n\n", ""))
"""What is put around the placeholders: templates are known to strip white space, and to take thoughts away."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a template writes around the messages of one sequence of roles, and where its learned turns stand.

    ``between`` has one text more than there are messages.
    """

    between: tuple[str, ...]
    spans: tuple[tuple[Place, Place], ...]

    def fill(self, messages: Sequence[Message], text: str) -> list[Span] | None:
        """The spans of a conversation in its rendering; ``None`` if that is not the outline filled with it."""
        for contents in _as_written(messages):
            parts = [self.between[0]]
            for content, glue in zip(contents, self.between[1:], strict=True):
                parts += (content, glue)
            if "".join(parts) == text:
                spans = self._spans(contents, messages)
                return spans if all(span.end > span.start for span in spans) else None
        return None

    def _spans(self, contents: Sequence[str], messages: Sequence[Message]) -> list[Span]:
        lengths = [*accumulate(map(len, contents), initial=0)]
        return [
            Span(begin + lengths[before], end + lengths[after], messages[before].weight)
            for (before, begin), (after, end) in self.spans
        ]


class Outlines:
    """Renders conversations with the outlines of one template."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._known: dict[tuple[tuple[Role, ...], tuple[bool, ...]], Outline | None] = {}

    def render(self, example: Example, learned: tuple[bool, ...], text: str) -> Rendered | None:
        """The conversation whose rendering is ``text``, with its spans; ``None`` if no outline tells them."""
        messages = example.messages
        if example.tools or any(message.tool_calls or message.reasoning is not None for message in messages):
            return None
        if all(learned) and any(message.weight != 1 for message in messages):
            return None  # placeholders have no weights, and without them the whole text is one span
        outline = self._outline(tuple(message.role for message in messages), learned)
        spans = outline.fill(messages, text) if outline else None
        return None if spans is None else Rendered(example, learned, text, tuple(spans))

    def _outline(self, roles: tuple[Role, ...], learned: tuple[bool, ...]) -> Outline | None:
        key = (roles, learned)
        if key not in self._known and len(self._known) < KEPT:
            self._known[key] = learn(self._template, roles, learned)
        return self._known.get(key)


def learn(template: Template, roles: Sequence[Role], learned: tuple[bool, ...]) -> Outline | None:
    """The outline of a sequence of roles, if every placeholder appears once and padded ones agree with it."""
    plain, *padded = _probes(template, roles, learned)
    outline = _outline_of(plain) if plain else None
    if plain is None or outline is None:
        return None
    for probe, (before, after) in zip(padded, PADDINGS[1:], strict=True):
        example = _placeholders(roles, before, after)
        text = _text(template, example)
        claimed = outline.fill(example.messages, text) if text is not None else None
        if claimed is not None and (probe is None or tuple(claimed) != probe.spans):
            return None
    return outline


def _probes(template: Template, roles: Sequence[Role], learned: tuple[bool, ...]) -> Iterator[Rendered | None]:
    for before, after in PADDINGS:
        try:
            yield render_whole(_placeholders(roles, before, after), template, learned)
        except DataError:
            yield None


def _text(template: Template, example: Example) -> str | None:
    try:
        return template.render(example.messages)
    except DataError:
        return None


def _placeholders(roles: Sequence[Role], before: str = "", after: str = "") -> Example:
    messages = (Message(role, f"{before}placeholder{turn}of{after}") for turn, role in enumerate(roles))
    return Example("a placeholder", tuple(messages))


def _outline_of(probe: Rendered) -> Outline | None:
    contents = [message.content for message in probe.example.messages]
    if any(probe.text.count(content) != 1 for content in contents):
        return None
    begins = [probe.text.index(content) for content in contents]
    ends = [begin + len(content) for begin, content in zip(begins, contents, strict=True)]
    if begins != sorted(begins):
        return None

    def place(position: int) -> Place | None:
        before = sum(begin < position for begin in begins)
        inside = before and position < ends[before - 1]
        return None if inside else (before, position - sum(map(len, contents[:before])))

    spans = [(place(span.start), place(span.end)) for span in probe.spans]
    found = tuple((begin, end) for begin, end in spans if begin and end)
    between = tuple(probe.text[end:begin] for end, begin in zip([0, *ends], [*begins, None], strict=True))
    return Outline(between, found) if len(found) == len(spans) else None


def _as_written(messages: Sequence[Message]) -> Iterator[Sequence[str]]:
    """The contents as they are, then without the white space around them, as many templates write them."""
    contents = [message.content for message in messages]
    yield contents
    stripped = [content.strip() for content in contents]
    if stripped != contents:
        yield stripped
