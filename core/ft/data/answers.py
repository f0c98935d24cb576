"""A prompt with its answers, as tokens that share the prompt: what the stages that compare answers have in common.

Each side (the prompt followed by one answer) is rendered and tokenised once, as a conversation of supervised learning
is; learned are the assistant's messages of the answer. A sample longer than ``cutoff_len`` is shortened as
:mod:`ft.data.truncation` says, with two differences. The sides keep the same prompt, so the *longest* answer decides.
And the answer is what the sample is for, so that no turn at the end is left out: ``proportional`` and ``right`` take
the whole prompt for one question, ``left`` drops the first rounds of it and then the beginning of a question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ft.data.boundaries import Labeller
from ft.data.openings import check_generation_prompt
from ft.data.outlines import Outlines
from ft.data.reading import drop_or_raise
from ft.data.spans import Rendered, check_tools, encode_batch, label, render_exactly
from ft.data.tokens import TOO_LONG
from ft.data.truncation import ROUNDS, clip, reserve, share, spread
from ft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ft.data.spans import Tokens, Truncation
    from ft_hookspecs import DataCounts, Example, Message, Template

FILLED: Final = "prompt fills cutoff_len: no room for an answer"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt (its messages and tools) and the answers to it: two of a pair, one, or none where a model answers.

    ``own_answer`` is the text of the data's answer where the model's is wanted.
    """

    prompt: Example
    answers: tuple[tuple[Message, ...], ...] = ()
    desirable: bool | None = None
    own_answer: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long prompt and answer may be together, in tokens, and what is done about it.

    Of each answer ``reserved`` tokens are kept (all of a shorter one), or the sample is dropped.
    """

    cutoff_len: int
    truncation: Truncation
    reserved: int = 1
    on_bad_row: Literal["error", "skip"] = "error"


class Fitted(NamedTuple):
    """A sample as it fits, perhaps cut: one rendering and its tokens for each side."""

    sample: Asked
    sides: list[Rendered]
    tokens: list[Tokens]
    is_cut: bool


class Fitter:
    """Makes tokens of prompts with their answers; keeps what it learns of the template and the tokenizer."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> None:
        self.template, self.tokenizer, self.limits = template, tokenizer, limits
        self._outlines = Outlines(template)
        self._label = Labeller(tokenizer)

    def __call__(self, samples: Sequence[Asked], counts: DataCounts) -> Iterator[Fitted]:
        """The tokens of many samples, tokenised together; what does not fit is dropped and counted.

        Raises:
            DataError: the template has no generation prompt, or, unless ``on_bad_row`` is ``skip``, cannot render a
                sample.
        """
        if samples:
            check_generation_prompt(samples[0].prompt, self.template)
        rendered = list(self._render(samples, counts))
        tokens = self._label([side for _, sides in rendered for side in sides])
        for sample, sides in rendered:
            fitted = self._fitting(sample, sides, [next(tokens) for _ in sides])
            if fitted is None:
                counts.drop(TOO_LONG if self.limits.truncation == "drop" else FILLED)
            else:
                yield fitted

    def _fitting(self, sample: Asked, sides: list[Rendered], tokens: list[Tokens]) -> Fitted | None:
        if max(len(each.input_ids) for each in tokens) <= self.limits.cutoff_len:
            return Fitted(sample, sides, tokens, is_cut=False)
        return shorten_sides(sample, self.template, self.tokenizer, self.limits)

    def _render(self, samples: Sequence[Asked], counts: DataCounts) -> Iterator[tuple[Asked, list[Rendered]]]:
        """Every side, by the outline of its roles where there is one."""
        sides = [[_side(sample.prompt, answer) for answer in sample.answers] for sample in samples]
        render_batch = getattr(self.template, "render_batch", None)
        texts = render_batch and render_batch([example.messages for each in sides for example, _ in each])
        following = iter(texts or ())
        for sample, each in zip(samples, sides, strict=True):
            found = (text and self._outlines.render(*side, text) for side, text in zip(each, following, strict=False))
            known = [side for side in found if side]
            try:
                yield sample, known if each and len(known) == len(each) else render_sides(sample, self.template)
            except DataError as error:
                drop_or_raise(error, self.limits.on_bad_row == "skip", counts)


# ---- render -------------------------------------------------------------------------------------------------------


def render_sides(sample: Asked, template: Template) -> list[Rendered]:
    """One rendering for each answer; without answers that of the prompt, up to where an answer begins.

    Raises:
        DataError: the template refuses the conversation, or does not show where the answer begins.
    """
    prompt = sample.prompt
    try:
        if not sample.answers:
            text = template.render(prompt.messages, tools=prompt.tools, add_generation_prompt=True)
            check_tools(prompt, template, text)
            return [Rendered(prompt, (False,) * len(prompt.messages), text, ())]
        sides = (_side(prompt, answer) for answer in sample.answers)
        return [render_exactly(example, template, learned) for example, learned in sides]
    except DataError as error:
        raise DataError(error.what, where=prompt.where, why=error.why, remedy=error.remedy) from error


def _side(prompt: Example, answer: tuple[Message, ...]) -> tuple[Example, tuple[bool, ...]]:
    """The conversation that ends with the answer, and which of its messages are learned."""
    learned = (*(False,) * len(prompt.messages), *(message.role == "assistant" for message in answer))
    return replace(prompt, messages=(*prompt.messages, *answer)), learned


# ---- shorten ------------------------------------------------------------------------------------------------------


def shorten_sides(
    sample: Asked, template: Template, tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> Fitted | None:
    """The sample cut so that each side has at most ``cutoff_len`` tokens; ``None`` when that leaves too little."""
    if limits.truncation == "drop":
        return None
    for _ in range(ROUNDS + len(sample.prompt.messages)):
        sides = render_sides(sample, template)
        encoded = encode_batch(tokenizer, [side.text for side in sides])
        excess = max(map(len, encoded)) - limits.cutoff_len
        if excess <= 0:
            return Fitted(sample, sides, list(map(label, sides, encoded)), is_cut=True)
        shorter = (_cut_left if limits.truncation == "left" else _cut_both)(sample, excess, tokenizer, limits)
        if shorter is None:
            return None
        sample = shorter
    return None


def _cut_both(sample: Asked, excess: int, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Asked | None:
    """Prompt and answers shorter by ``excess`` tokens; every message of the prompt keeps at least one."""
    prompt, *answers = (_encode(messages, tokenizer) for messages in (sample.prompt.messages, *sample.answers))
    asked, answered = _size(prompt), max(map(_size, answers), default=0)
    room = asked + answered - excess
    if room <= 0:
        return None
    left, kept = reserve(share(asked, answered, room, limits.truncation), min(answered, limits.reserved), room)
    if left < sum(bool(len(content)) for content in prompt):
        return None
    return replace(
        sample,
        prompt=replace(sample.prompt, messages=_clipped(sample.prompt.messages, prompt, left, limits)),
        answers=tuple(
            _clipped(answer, contents, kept, limits) for answer, contents in zip(sample.answers, answers, strict=True)
        ),
    )


def _cut_left(sample: Asked, excess: int, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Asked | None:
    """Without the first round of the prompt, or with the beginnings of its questions cut by ``excess`` tokens."""
    messages = sample.prompt.messages
    start = int(messages[0].role == "system")
    end = next((turn for turn in range(start, len(messages)) if messages[turn].role == "assistant"), len(messages))
    questions = messages[start:end]
    contents = _encode(questions, tokenizer)
    left = _size(contents) - excess
    if left >= sum(bool(len(content)) for content in contents):
        shorter = (*messages[:start], *_clipped(questions, contents, left, limits), *messages[end:])
    elif rest := _from_next_user(messages[end:]):
        shorter = (*messages[:start], *rest)
    else:
        return None
    return replace(sample, prompt=replace(sample.prompt, messages=shorter))


def _from_next_user(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    begin = next((turn for turn, message in enumerate(messages) if message.role == "user"), len(messages))
    return messages[begin:]


def _encode(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    return encode_batch(tokenizer, [message.content for message in messages])


def _size(contents: Iterable[Any]) -> int:
    return sum(map(len, contents))


def _clipped(messages: Sequence[Message], contents: Sequence[Any], room: int, limits: Limits) -> tuple[Message, ...]:
    sizes = spread([len(content) for content in contents], room)
    return tuple(
        replace(message, content=clip(message.content, content, size, limits.truncation))
        for message, content, size in zip(messages, contents, sizes, strict=True)
    )
