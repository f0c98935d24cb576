"""Labels of many texts at once, without character offsets where the bytes of each token are known.

Computing offsets makes encoding a third slower. A byte-level tokenizer does not need them: its tokens spell the bytes
of the text, so a sum of lengths says where each begins. A text whose lengths do not add up, or where a span does not
begin between two tokens, is labelled by offsets (:func:`ft.data.spans.label`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ft.data.encoding import Encoder, is_byte_level
from ft.data.spans import encode_batch, label, labelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy import int32
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from ft.data.spans import Rendered, Tokens

SPACE: Final = "Ġ"
"""How byte-level tokenizers write a space."""


class Labeller:
    """Tokens and labels of rendered conversations, by one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._encode = Encoder(tokenizer)

    def __call__(self, samples: Sequence[Rendered]) -> Iterator[Tokens]:
        """The tokens of each sample, in order.

        Raises:
            ConfigError: the tokenizer gives no offsets.
        """
        texts = [sample.text for sample in samples]
        if self._bytes is None:
            yield from map(label, samples, encode_batch(self._tokenizer, texts))
            return
        for sample, ids in zip(samples, self._encode(texts), strict=True):
            tokens = self._by_bytes(sample, ids)
            yield tokens or label(sample, *encode_batch(self._tokenizer, [sample.text]))

    def _by_bytes(self, sample: Rendered, ids: NDArray[int32]) -> Tokens | None:
        """The labels, if the lengths of the tokens tell them."""
        assert self._bytes is not None
        sizes, spaces = self._bytes
        ends = sizes[ids].cumsum()
        *places, whole = self._in_bytes(sample)
        if not len(ends) or ends[-1] != whole:
            return None
        before = ends.searchsorted(places)  # the token that ends at each place, if one does
        at = zip(places, before.tolist(), ends[before].tolist(), ids[before].tolist(), strict=True)
        if any(place and (end != place or number in spaces) for place, _, end, number in at):
            return None
        begins = [token + 1 if place else 0 for token, place in zip(before.tolist(), places, strict=True)]
        pieces = [slice(first, after) for first, after in zip(begins[::2], begins[1::2], strict=True)]
        return labelled(sample, ids.tolist(), pieces)

    def _in_bytes(self, sample: Rendered) -> list[int]:
        """The boundaries of the spans and the length of the text, in bytes."""
        text = sample.text
        places = [place for span in sample.spans for place in (span.start, span.end)] + [len(text)]
        return places if text.isascii() else [len(text[:place].encode("utf-8", "replace")) for place in places]

    @cached_property
    def _bytes(self) -> tuple[Any, set[int | None]] | None:
        """The bytes of each token, and those that are but spaces; ``None`` if the tokenizer is not byte-level.

        A token of spaces alone may be counted to what follows it: its offsets are empty.
        """
        import numpy as np

        if not is_byte_level(self._tokenizer):
            return None
        vocabulary = self._tokenizer.get_vocab()
        numbers = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
        sizes = np.zeros(numbers.max(initial=0) + 1, dtype=np.int64)
        sizes[numbers] = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))
        spaces = {vocabulary.get(SPACE * size) for size in range(1, int(sizes.max()) + 1)}
        for number, added in self._tokenizer.added_tokens_decoder.items():
            sizes[number] = len(added.content.encode())
            if not added.content.strip():
                spaces.add(number)
        return sizes, spaces
