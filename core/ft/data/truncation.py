"""Shorten a conversation that is longer than ``cutoff_len`` by cutting the content of messages, never the markers.

The conversation is seen as pairs: what comes before an answer, and the answer. A pair of which nothing can be kept goes
as a whole; the text is then rendered anew, so that the template's markers stand as they must.

- ``proportional``: from the first pair on, question and answer each lose their end, in proportion (:func:`share`).
- ``right``: from the first pair on, the answer loses its end, then the question.
- ``left``: from the last pair back, the question loses its beginning; answers stay whole. A system message stays.
- ``drop``: not shortened but left out.

Of an answer at least ``reserved_label_len`` tokens stay (all of a shorter one), or its pair goes.

Where a question has several messages (system, tool results), the longest lose first. Thoughts, tool calls and tool
descriptions are not cut. A last token of padding may stay unused: what counts is that no sample exceeds ``cutoff_len``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ft.data.spans import encode_batch, label, render_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ft.data.spans import Rendered, Supervision, Tokens, Truncation
    from ft_hookspecs import Message, Template

ROUNDS = 8
"""Tokens merge differently at a cut, so a first cut may miss by a few; each round takes off what is still too much."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Positions in the conversation of a question's messages and of its answer; tokens of the markers around both."""

    question: tuple[int, ...]
    answer: int
    markers: int


def share(question: int, answer: int, room: int, truncation: Truncation) -> tuple[int, int]:
    """How many tokens of a question and of its answer fit into ``room``.

    ``proportional`` lets the shorter side keep what it has when it is under half of the room:
    (3000, 2000, 1000) → (600, 400); (499, 5000, 1000) → (499, 501).
    """
    if truncation == "right":
        kept = min(question, room)
        return kept, min(answer, room - kept)
    if truncation == "left":
        return (min(question, room - answer), answer) if answer <= room else (0, 0)
    if 2 * answer < room:
        limit = room
    elif 2 * question < room:
        limit = room - question
    else:
        limit = room * answer // (question + answer)
    kept = min(limit, answer)
    return min(question, room - kept), kept


def reserve(sizes: tuple[int, int], reserved: int, room: int) -> tuple[int, int]:
    """The shares with at least ``reserved`` tokens for the answer, taken from the question; nothing if even they miss.

    ((1000, 0), 20, 1000) → (980, 20).
    """
    if reserved > room:
        return 0, 0
    kept = max(sizes[1], reserved)
    return min(sizes[0], room - kept), kept


def shorten(
    sample: Rendered, template: Template, tokenizer: PreTrainedTokenizerBase, supervision: Supervision
) -> Tokens | None:
    """The sample cut to ``cutoff_len`` tokens; ``None`` when there is no room for any of its answers."""
    if supervision.truncation == "drop":
        return None
    messages = sample.example.messages
    contents = encode_batch(tokenizer, [message.content for message in messages])
    pairs = find_pairs(sample, template, tokenizer, [len(content) for content in contents])
    budget = supervision.cutoff_len
    for _ in range(ROUNDS):
        kept = keep(pairs, [len(content) for content in contents], messages, budget, supervision)
        if not kept or budget <= 0:
            return None
        cut = [
            replace(messages[turn], content=clip(messages[turn].content, contents[turn], size, supervision.truncation))
            for turn, size in sorted(kept.items())
        ]
        learned = tuple(sample.learned[turn] for turn in sorted(kept))
        rendered = render_whole(replace(sample.example, messages=tuple(cut)), template, learned)
        if rendered is None:
            return None
        [encoding] = encode_batch(tokenizer, [rendered.text])
        if len(encoding) <= supervision.cutoff_len:
            return label(rendered, encoding)
        budget -= len(encoding) - supervision.cutoff_len
    return None


def find_pairs(
    sample: Rendered, template: Template, tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int]
) -> list[Pair]:
    """The pairs of a conversation; the tokens of a pair's markers are what its rendering adds beyond its contents."""
    messages, tools = sample.example.messages, sample.example.tools
    ends = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
    texts = [template.render(messages[: end + 1], tools=tools) for end in ends]
    pairs: list[Pair] = []
    begin = total = 0
    for end, encoding in zip(ends, encode_batch(tokenizer, texts), strict=True):
        markers = len(encoding) - total - sum(lengths[begin : end + 1])
        pairs.append(Pair(tuple(range(begin, end)), end, max(0, markers)))
        begin, total = end + 1, len(encoding)
    return pairs


def keep(
    pairs: Sequence[Pair], lengths: Sequence[int], messages: Sequence[Message], budget: int, supervision: Supervision
) -> dict[int, int]:
    """Position in the conversation → tokens of content to keep, for every message that stays; none if none can."""
    truncation = supervision.truncation
    kept: dict[int, int] = {}
    room = budget
    pinned = truncation == "left" and messages[0].role == "system"
    if pinned:
        kept[0] = lengths[0]
        room -= lengths[0]
    for pair in reversed(pairs) if truncation == "left" else pairs:
        turns = [turn for turn in pair.question if turn not in kept]
        question, answer = sum(lengths[turn] for turn in turns), lengths[pair.answer]
        room -= pair.markers
        sizes = share(question, answer, room, truncation) if room > 0 else (0, 0)
        if truncation != "left":  # which keeps answers whole or not at all
            sizes = reserve(sizes, min(answer, supervision.reserved), room)
        if (answer and not sizes[1]) or (question and not sizes[0]):
            break
        kept.update(zip(turns, spread([lengths[turn] for turn in turns], sizes[0]), strict=True))
        kept[pair.answer] = sizes[1]
        room -= sum(sizes)
    return kept if len(kept) > pinned else {}


def spread(lengths: Sequence[int], room: int) -> list[int]:
    """Lengths that add up to at most ``room``: a common ceiling lowers the longest and leaves the others whole."""
    sizes = [0] * len(lengths)
    ascending = sorted(range(len(lengths)), key=lengths.__getitem__)
    for rank, index in enumerate(ascending):
        sizes[index] = min(lengths[index], room // (len(lengths) - rank))
        room -= sizes[index]
    return sizes


def clip(text: str, encoding: Any, size: int, truncation: Truncation) -> str:
    """The first ``size`` tokens of ``text`` (``left``: the last), cut between characters."""
    offsets: list[tuple[int, int]] = encoding.offsets
    if size >= len(offsets):
        return text
    if truncation == "left":
        return text[offsets[-size - 1][1] :] if size else ""
    return text[: offsets[size][0]]
