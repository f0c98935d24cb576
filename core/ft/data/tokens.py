"""Token ids and labels of conversations and of plain text, with every cut and drop counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.data.reading import drop_or_raise
from ft.data.spans import Rendered, Supervision, Tokens, Truncation, encode_batch, label, render
from ft.data.truncation import shorten
from ft.errors import ConfigError, DataError
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import Example, Template

TOO_LONG: Final = "longer than cutoff_len"
NO_ROOM: Final = "longer than cutoff_len even without most of its content"
NOTHING_TO_LEARN: Final = "no token to learn"
ALONE: Final = "tokens left out that would be alone in a block"


def supervise(
    example: Example,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cutoff_len: int,
    truncation: Truncation = "proportional",
    train_on_prompt: bool = False,
    mask_history: bool = False,
    counts: DataCounts | None = None,
) -> list[Tokens]:
    """The samples of one conversation: normally one; several when the template is not prefix-stable; none if dropped.

    Args:
        example: a conversation.
        template: renders it.
        tokenizer: a fast one, because character offsets are needed.
        cutoff_len: longest sample, in tokens.
        truncation: what becomes of a longer one; see :mod:`ft.data.truncation`.
        train_on_prompt: learn every turn.
        mask_history: learn only the last answer.
        counts: receives tokens, cuts and drops.

    Raises:
        DataError: the template cannot render the conversation, or not in a way that shows what an answer is.
    """
    supervision = Supervision(cutoff_len, truncation, train_on_prompt, mask_history)
    return list(supervise_batch([example], template, tokenizer, supervision, counts or DataCounts()))


def supervise_batch(
    examples: Iterable[Example],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    supervision: Supervision,
    counts: DataCounts,
) -> Iterator[Tokens]:
    """The samples of many conversations, tokenised together (the tokenizer's threads share the work)."""
    rendered: list[Rendered] = []
    for example in examples:
        try:
            rendered += render(example, template, supervision, counts)
        except DataError as error:
            drop_or_raise(error, supervision.on_bad_row == "skip", counts)
    for sample, encoding in zip(rendered, encode_batch(tokenizer, [sample.text for sample in rendered]), strict=True):
        tokens: Tokens | None = label(sample, encoding)
        if len(encoding) > supervision.cutoff_len:
            tokens = shorten(sample, template, tokenizer, supervision)
        if tokens is None:
            counts.drop(TOO_LONG if supervision.truncation == "drop" else NO_ROOM)
        elif not tokens.supervised:
            counts.drop(NOTHING_TO_LEARN)
        else:
            counts.truncated += len(encoding) > supervision.cutoff_len
            counts.tokens += len(tokens.input_ids)
            counts.supervised += tokens.supervised
            yield tokens


def blocks(
    texts: Iterable[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    counts: DataCounts,
    *,
    joined: bool = True,
) -> Iterator[Tokens]:
    """Plain texts, each followed by eos, concatenated and cut into blocks of ``size`` tokens; the rest is kept.

    Args:
        texts: batches of texts.
        tokenizer: must have an eos token.
        size: tokens in a block.
        counts: receives the tokens.
        joined: begin each block where the last one ended; otherwise each text begins a block of its own.

    Raises:
        ConfigError: the tokenizer has no eos token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ConfigError("the tokenizer has no eos token", why="it ends each text in a block", remedy="give it one")
    buffer: list[int] = []
    for batch in texts:
        for encoding in encode_batch(tokenizer, batch):
            buffer += encoding.ids
            buffer.append(eos)
            if not joined:
                yield from _cut(buffer, size, counts)
                buffer.clear()
        whole = len(buffer) // size * size
        yield from _cut(buffer[:whole], size, counts)
        del buffer[:whole]
    yield from _cut(buffer, size, counts)


def _cut(ids: list[int], size: int, counts: DataCounts) -> Iterator[Tokens]:
    """Blocks of ``size`` tokens and the rest, but for a single token, which predicts nothing."""
    for block in (ids[start : start + size] for start in range(0, len(ids), size)):
        if len(block) > 1:
            yield _block(block, counts)
        else:
            counts.repaired[ALONE] = counts.repaired.get(ALONE, 0) + 1


def _block(ids: list[int], counts: DataCounts) -> Tokens:
    tokens = Tokens(ids, list(ids))
    counts.tokens += len(ids)
    counts.supervised += tokens.supervised
    return tokens
