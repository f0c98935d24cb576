"""From a conversation to token ids and labels: one rendering, one tokenisation, character spans.

The conversation is rendered once as a whole. What an answer's span is follows from inference itself: it begins where
the rendering of the messages before it, with a generation prompt, ends; it ends with the turn, its end marker included.
Both renderings must be prefixes of the whole. Where a template changes earlier turns when later ones follow (Qwen3
takes their thoughts away), the conversation becomes one sample for each answer, as inference sees it.

A token is supervised if and only if its first character lies in a supervised span.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import DataCounts, Example, Message, Template

IGNORE: Final = -100
"""The label of a token that is not learned."""

EXPANDED: Final = "conversations made one sample for each answer, because the template changes earlier turns"

COLUMNS: Final = {"input_ids": "list<int32>", "labels": "list<int32>", "length": "int32"}
"""The columns of tokenised sequences and their Arrow types; with weighted messages also ``loss_weights``."""

Truncation = Literal["proportional", "left", "right", "drop"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sample: ids, labels (:data:`IGNORE` where not learned) and, if any turn has one, a loss weight for each."""

    input_ids: list[int]
    labels: list[int]
    loss_weights: list[float] | None = None

    def row(self, *, weighted: bool) -> dict[str, Any]:
        """A value for each of :data:`COLUMNS`, and ``loss_weights`` if ``weighted``."""
        row = {"input_ids": self.input_ids, "labels": self.labels, "length": len(self.input_ids)}
        return {**row, "loss_weights": self.loss_weights or [1.0] * len(self.labels)} if weighted else row

    @property
    def supervised(self) -> int:
        """How many tokens are learned; the first of a sample never is, as nothing predicts it."""
        return len(self.labels) - 1 - self.labels[1:].count(IGNORE) if self.labels else 0


@dataclass(frozen=True, slots=True)
class Supervision:
    """Which tokens are learned, and how long a sample may be.

    ``cutoff_len`` is in tokens, and so is ``reserved``: what truncation leaves of an answer at least. ``on_bad_row``
    says what becomes of a conversation that the template refuses.
    """

    cutoff_len: int
    truncation: Truncation = "proportional"
    train_on_prompt: bool = False
    mask_history: bool = False
    on_bad_row: Literal["error", "skip"] = "error"
    reserved: int = 1


class Span(NamedTuple):
    """Supervised characters of a text: from ``start`` up to ``end``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. ``example`` holds the messages that were rendered, ``learned`` which of them count."""

    example: Example
    learned: tuple[bool, ...]
    text: str
    spans: tuple[Span, ...]


# ---- render -------------------------------------------------------------------------------------------------------


def render(example: Example, template: Template, supervision: Supervision, counts: DataCounts) -> list[Rendered]:
    """The text of a conversation with its supervised spans; one for each learned turn if nothing else is exact."""
    learned = learned_turns(example, supervision)
    try:
        whole = render_whole(example, template, learned)
        if whole is not None:
            return [whole]
        apart = [render_until(example, template, turn) for turn, is_learned in enumerate(learned) if is_learned]
    except DataError as error:
        raise DataError(error.what, where=example.where, why=error.why, remedy=error.remedy) from error
    counts.repair(EXPANDED)
    return apart


def learned_turns(example: Example, supervision: Supervision) -> tuple[bool, ...]:
    """Which messages are learned: as the data says, else as the stage says."""
    messages = conversation(example)
    last = max((turn for turn, message in enumerate(messages) if message.role == "assistant"), default=-1)

    def by_default(turn: int) -> bool:
        if messages[turn].role != "assistant":
            return supervision.train_on_prompt
        return turn == last or not supervision.mask_history

    return tuple(by_default(turn) if m.train is None else m.train for turn, m in enumerate(messages))


def conversation(example: Example) -> tuple[Message, ...]:
    """The messages of an example.

    Raises:
        DataError: it is plain text.
    """
    if example.messages:
        return example.messages
    raise DataError(
        "plain text where a conversation is needed",
        where=example.where,
        why="only the stage of pretraining learns plain text",
        remedy="name the columns of prompt and answer in dataset_info.json, or use stage: pt",
    )


def render_whole(example: Example, template: Template, learned: tuple[bool, ...]) -> Rendered | None:
    """One rendering with the spans of all learned turns; ``None`` when the template is not prefix-stable there."""
    messages = example.messages
    text = template.render(messages, tools=example.tools)
    check_tools(example, template, text)
    if all(learned) and all(message.weight == 1 for message in messages):
        return Rendered(example, learned, text, (Span(0, len(text), 1.0),))
    spans = [turn_span(example, template, text, turn) for turn, is_learned in enumerate(learned) if is_learned]
    stable = [span for span in spans if span is not None]
    return Rendered(example, learned, text, tuple(stable)) if len(stable) == len(spans) else None


def check_tools(example: Example, template: Template, text: str) -> None:
    """A template that knows no tools leaves them out without a word, and an answer that is only a call becomes empty.

    Raises:
        DataError: the name of a tool that is described or called does not stand in the text.
    """
    calls = [call for message in example.messages for call in message.tool_calls]
    names = [each.get("function", each).get("name", "") for each in (*calls, *example.tools)]
    if lost := next((name for name in names if name not in text), None):
        raise DataError(
            f"the chat template ({template.name}) does not write the tool {lost!r}",
            where=example.where,
            why="the model would learn a conversation without its tool calls",
            remedy="choose a template that writes tools, or take the tools out of the row",
        )


def render_until(example: Example, template: Template, turn: int) -> Rendered:
    """The conversation up to one learned turn, as inference sees it."""
    shorter = replace(example, messages=example.messages[: turn + 1])
    return render_exactly(shorter, template, (*(False,) * turn, True))


def render_exactly(example: Example, template: Template, learned: tuple[bool, ...]) -> Rendered:
    """One rendering with the spans of all learned turns.

    Raises:
        DataError: the template is not prefix-stable there.
    """
    rendered = render_whole(example, template, learned)
    if rendered is None:
        raise DataError(
            f"the chat template ({template.name}) does not show where message {learned.index(True) + 1} begins",
            where=example.where,
            why="the text before an answer, with the generation prompt, is not a prefix of the text with the answer",
            remedy="choose another template, or take the thoughts or tool calls out of the row",
        )
    return rendered


def turn_span(example: Example, template: Template, text: str, turn: int) -> Span | None:
    """The characters of a turn in the rendering ``text``: an answer begins after the generation prompt."""
    messages, tools = example.messages, example.tools
    message, before = messages[turn], messages[:turn]
    is_answer = message.role == "assistant"
    opening = template.render(before, tools=tools, add_generation_prompt=is_answer) if before else ""
    is_last = turn == len(messages) - 1
    closed = text if is_last else template.render(messages[: turn + 1], tools=tools)
    if not (text.startswith(closed) and closed.startswith(opening) and len(closed) > len(opening)):
        return None
    return Span(len(opening), _end(closed, template.stop), message.weight)


def _end(closed: str, stop: Sequence[str]) -> int:
    """The end of a turn. White space after an end marker is the template's, and no model is asked to write it."""
    marked = closed.rstrip()
    return len(marked) if stop and marked.endswith(tuple(stop)) else len(closed)


# ---- tokenise -----------------------------------------------------------------------------------------------------


def encode_batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, offsets: bool = True) -> list[Any]:
    """``tokenizers.Encoding`` of each text: special tokens written in it count as such, and none is added.

    Without ``offsets`` it takes two thirds of the time.

    Raises:
        ConfigError: the tokenizer has no Rust implementation, and so no offsets.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
            why="labels are found by the place of each token in the text",
            remedy="use a model with a tokenizer.json",
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    encodings: list[Any] = encode(texts, add_special_tokens=False)
    return encodings


def label(sample: Rendered, encoding: Any) -> Tokens:
    """Labels from the spans. Offsets are sorted, so that each end of a span is found by bisection."""
    offsets: list[tuple[int, int]] = encoding.offsets
    pieces = [slice(bisect_left(offsets, (start,)), bisect_left(offsets, (end,))) for start, end, _ in sample.spans]
    return labelled(sample, encoding.ids, pieces)


def labelled(sample: Rendered, ids: list[int], pieces: Sequence[slice]) -> Tokens:
    """The tokens with those of the pieces, one for each span, as labels."""
    labels = [IGNORE] * len(ids)
    weights = [1.0] * len(ids) if any(message.weight != 1 for message in sample.example.messages) else None
    for piece, span in zip(pieces, sample.spans, strict=True):
        labels[piece] = ids[piece]
        if weights is not None:
            weights[piece] = [span.weight] * len(ids[piece])
    return Tokens(ids, labels, weights)
