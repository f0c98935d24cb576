"""Token ids of texts, where each distinct word is encoded once.

A byte-level tokenizer splits a text before it merges, and never so that a part goes on over a single space: ``two
words`` is ``two`` and then `` words``, whatever stands around them. So a text is cut at such spaces, each new piece is
encoded, and the ids are joined; they are those of the whole text. It is cut around special tokens too, which every
tokenizer takes out first. Natural text has few distinct words, and the tokenizer takes 1.5 µs a token where a look-up
takes 0.3.

That it holds for a tokenizer is shown by its own splitting of all pairs of unlike characters, and by the first texts,
which are encoded both ways. Where it does not hold, texts are encoded whole.
"""

from __future__ import annotations

import json
import re
from array import array
from typing import TYPE_CHECKING, Any, Final

from ft.data.spans import encode_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import int32
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

PIECE: Final = re.compile(r"\s*\S+(?:(?! \S)\s+\S*)*|\s+")
"""Up to a single space between two characters that are none."""

UNLIKE: Final = (*"azAZßǅʰ日שé79٣½Ⅷ'\"/.,_-(<#$…«€🙂\u200b", "'s", "'LL", "12", "//", "ab", "e\u0301")
"""One or more of each kind of characters that tokenizers tell apart."""

KEPT: Final = 1 << 17
"""Pieces remembered, in some 20 MB; then all are forgotten."""

LONGEST: Final = 32
"""Characters of a piece that is remembered: a longer one hardly comes again."""

CHECKED: Final = 16
"""Texts that are encoded both ways."""


class Encoder:
    """Encodes texts; special tokens written in them count as such, and none is added."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, bytes] = {}
        self._special = special_tokens(tokenizer)
        self._is_exact: bool | None = None

    def __call__(self, texts: Sequence[str]) -> list[NDArray[int32]]:
        """The ids of each text.

        Raises:
            ConfigError: the tokenizer has no Rust implementation.
        """
        if self._is_exact is None and texts:
            self._is_exact = falls_into_words(self._tokenizer) and self._agrees(texts[:CHECKED])
        return self._in_pieces(texts) if self._is_exact else self._whole(texts)

    def _agrees(self, texts: Sequence[str]) -> bool:
        import numpy as np

        return all(map(np.array_equal, self._in_pieces(texts), self._whole(texts)))

    def _whole(self, texts: Sequence[str]) -> list[NDArray[int32]]:
        import numpy as np

        return [np.array(each.ids, np.int32) for each in encode_batch(self._tokenizer, texts, offsets=False)]

    def _in_pieces(self, texts: Sequence[str]) -> list[NDArray[int32]]:
        import numpy as np

        known = self._known
        if len(known) > KEPT:
            known.clear()
        pieces = [[piece for part in self._special.split(text) for piece in PIECE.findall(part)] for text in texts]
        new = list(set().union(*pieces).difference(known))
        encoded = encode_batch(self._tokenizer, new, offsets=False)
        known.update((piece, array("i", each.ids).tobytes()) for piece, each in zip(new, encoded, strict=True))
        ids = [np.frombuffer(b"".join(map(known.__getitem__, each)), np.int32) for each in pieces]
        for piece in new:
            if len(piece) > LONGEST:
                del known[piece]
        return ids


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches the tokens that are found in a text before anything else is done to it; of several, the longest."""
    found = (token.content for token in tokenizer.added_tokens_decoder.values() if not token.normalized)
    return re.compile(f"({'|'.join(map(re.escape, sorted(found, key=len, reverse=True))) or '(?!)'})")


def falls_into_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the ids of a text are those of its pieces, one after the other."""
    if not is_byte_level(tokenizer) or tokenizer.backend_tokenizer.model.dropout:
        return False
    if any(not PIECE.fullmatch(f"x{token.content}x") for token in tokenizer.added_tokens_decoder.values()):
        return False
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    pairs = " ".join(f"{first} {second}" for first in UNLIKE for second in UNLIKE)
    pieces = PIECE.findall(pairs)
    parts = {piece: [part for part, _ in split(piece)] for piece in set(pieces)}
    return [part for part, _ in split(pairs)] == [part for piece in pieces for part in parts[piece]]


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token spells bytes of the text as it is: nothing is normalised, added or left out."""
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or backend.pre_tokenizer is None or type(backend.model).__name__ != "BPE":
        return False
    split = json.loads(backend.pre_tokenizer.__getstate__())  # its serialisation; the whole tokenizer's is megabytes
    steps = split.get("pretokenizers", [split])
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    plain = all(step.get("type") in ("ByteLevel", "Digits") or _keeps(step) for step in steps)
    added = tokenizer.added_tokens_decoder.values()
    takes_spaces = any(token.lstrip or token.rstrip or token.single_word for token in added)
    return plain and len(levels) == 1 and not levels[0]["add_prefix_space"] and not takes_spaces


def _keeps(step: dict[str, Any]) -> bool:
    return step.get("type") == "Split" and step.get("behavior") in ("Isolated", "MergedWithPrevious", "MergedWithNext")
