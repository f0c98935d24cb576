"""Token ids and labels of conversations and of plain text, with every cut and drop counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.data.boundaries import Labeller
from ft.data.encoding import Encoder
from ft.data.openings import check_generation_prompt, question
from ft.data.outlines import Outlines
from ft.data.reading import drop_or_raise
from ft.data.spans import Supervision, Tokens, learned_turns, render
from ft.data.truncation import shorten
from ft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ft.data.spans import Rendered
    from ft_hookspecs import DataCounts, Example, Template

TOO_LONG: Final = "longer than cutoff_len"
NO_ROOM: Final = "longer than cutoff_len even without most of its content"
NOTHING_TO_LEARN: Final = "no token to learn"
ALONE: Final = "single tokens left over were dropped"


class Supervisor:
    """Makes samples of conversations; keeps what it learns of the template and the tokenizer."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, supervision: Supervision) -> None:
        self.template, self.tokenizer, self.supervision = template, tokenizer, supervision
        self._outlines = Outlines(template)
        self._label = Labeller(tokenizer)
        self._is_checked = False

    def __call__(self, examples: Sequence[Example], counts: DataCounts) -> Iterator[Tokens]:
        """The samples of many conversations, tokenised together (the tokenizer's threads share the work).

        Raises:
            DataError: the template has no generation prompt; or, unless ``on_bad_row`` is ``skip``, it cannot render a
                conversation, or not in a way that shows what an answer is.
        """
        self._check(examples)
        rendered: list[Rendered] = []
        for example, text in zip(examples, self._texts(examples), strict=True):
            try:
                rendered += self._render(example, text, counts)
            except DataError as error:
                drop_or_raise(error, self.supervision.on_bad_row == "skip", counts)
        for sample, tokens in zip(rendered, self._label(rendered), strict=True):
            yield from self._fitting(sample, tokens, counts)

    def _check(self, examples: Sequence[Example]) -> None:
        """The first conversation shows where answers begin; where every token is learned, it does not matter."""
        first = next((example for example in examples if example.messages), None)
        if not (self._is_checked or self.supervision.train_on_prompt or first is None):
            check_generation_prompt(question(first), self.template)
            self._is_checked = True

    def _texts(self, examples: Sequence[Example]) -> Sequence[str | None]:
        """The renderings of all conversations at once where the template can; ``None`` for one that needs care."""
        render_batch = getattr(self.template, "render_batch", None)
        texts: Sequence[str | None] | None = render_batch and render_batch([e.messages for e in examples])
        return texts or [None] * len(examples)

    def _render(self, example: Example, text: str | None, counts: DataCounts) -> list[Rendered]:
        check_answer(example)
        if text is not None:
            known = self._outlines.render(example, learned_turns(example, self.supervision), text)
            if known is not None:
                return [known]
        return render(example, self.template, self.supervision, counts)

    def _fitting(self, sample: Rendered, whole: Tokens, counts: DataCounts) -> Iterator[Tokens]:
        """The tokens, cut if they are too many, unless nothing is left of them; counted either way."""
        is_long = len(whole.input_ids) > self.supervision.cutoff_len
        tokens = shorten(sample, self.template, self.tokenizer, self.supervision) if is_long else whole
        if tokens is None:
            counts.drop(TOO_LONG if self.supervision.truncation == "drop" else NO_ROOM)
        elif not (supervised := tokens.supervised):
            counts.drop(NOTHING_TO_LEARN)
        else:
            counts.truncated += is_long
            counts.tokens += len(tokens.input_ids)
            counts.supervised += supervised
            yield tokens


def none_left(split: str, counts: DataCounts) -> DataError:
    """The error for a split of which nothing is left: a run that learns nothing must not look like one that does."""
    too_long = any("cutoff_len" in reason for reason in counts.dropped)
    return DataError(
        f"no {'training' if split == 'train' else split} samples are left",
        why=", ".join(f"{reason}: {count}" for reason, count in counts.dropped.items()) or "there are no rows",
        remedy="raise cutoff_len" if too_long else "correct the data",
    )


def check_answer(example: Example) -> None:
    """What is learned is an answer, and a good one.

    Raises:
        DataError: the example is a pair of answers, or its answer is marked bad.
    """
    if example.chosen:
        raise DataError(
            "a pair of answers where one answer is needed",
            where=example.where,
            why="this stage learns one answer to a prompt",
            remedy="use stage: dpo or rm, or give rows with the one answer that is to be learned",
        )
    if example.desirable is False:
        raise DataError(
            "the answer is marked bad",
            where=example.where,
            why="this stage learns to give the answers of its data",
            remedy="use stage: kto, or on_bad_row: skip to learn the good answers alone",
        )


def documents(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[str]], Iterator[list[int]]]:
    """What gives the ids of each text, followed by eos.

    Raises:
        ConfigError: the tokenizer has no eos token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ConfigError("the tokenizer has no eos token", why="it ends each text in a block", remedy="give it one")
    encode = Encoder(tokenizer)
    return lambda texts: ([*ids.tolist(), eos] for ids in encode(texts))


def cut(texts: Iterable[list[int]], size: int, counts: DataCounts, *, joined: bool = True) -> Iterator[Tokens]:
    """Blocks of ``size`` tokens of texts that end in eos, and what is left of them.

    ``joined``: a block begins where the last one ended; otherwise each text begins a block of its own.
    """
    buffer: list[int] = []
    for ids in texts:
        buffer += ids
        whole = len(buffer) // size * size if joined else len(buffer)
        yield from _cut(buffer[:whole], size, counts)
        del buffer[:whole]
    yield from _cut(buffer, size, counts)


def _cut(ids: list[int], size: int, counts: DataCounts) -> Iterator[Tokens]:
    """Blocks of ``size`` tokens and the rest, but for a single token, which predicts nothing."""
    for block in (ids[start : start + size] for start in range(0, len(ids), size)):
        if len(block) > 1:
            yield _block(block, counts)
        else:
            counts.repair(ALONE)


def _block(ids: list[int], counts: DataCounts) -> Tokens:
    tokens = Tokens(ids, list(ids))
    counts.tokens += len(ids)
    counts.supervised += tokens.supervised
    return tokens
