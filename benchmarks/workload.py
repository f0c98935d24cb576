"""The sequences of a benchmark: the project's own text in fixed lengths, with a known padding waste."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

TEXT = Path(__file__).parent.parent / "examples" / "quickstart" / "train.jsonl"
LENGTHS = (80, 130, 190, 220)
"""Tokens of the four sequences of a step: padded to 220 each, 29.5 % of the batch is padding."""
PROMPT_SHARE = 0.3
IGNORED = -100


@dataclass(frozen=True)
class Workload:
    """``steps`` batches of four sequences; each a dict of ``input_ids`` and ``labels``, the prompt's labels -100."""

    batches: list[list[dict[str, list[int]]]]

    @property
    def sequences(self) -> list[dict[str, list[int]]]:
        return [sequence for batch in self.batches for sequence in batch]

    @property
    def tokens(self) -> int:
        return sum(len(sequence["input_ids"]) for sequence in self.sequences)

    @property
    def labels(self) -> int:
        return sum(label != IGNORED for sequence in self.sequences for label in sequence["labels"])

    @property
    def waste(self) -> float:
        """Share of a padded batch that is padding."""
        padded = sum(len(batch) * max(len(sequence["input_ids"]) for sequence in batch) for batch in self.batches)
        return 1 - self.tokens / padded


def make_workload(tokenizer: PreTrainedTokenizerBase, steps: int, scale: float = 1.0) -> Workload:
    """Text of the quickstart's answers, cut into sequences of :data:`LENGTHS` times ``scale`` tokens."""
    stream = tokens(tokenizer)

    def sequence(length: int) -> dict[str, list[int]]:
        ids = [next(stream) for _ in range(length)]
        prompt = int(length * PROMPT_SHARE)
        return {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}

    return Workload([[sequence(int(length * scale)) for length in LENGTHS] for _ in range(steps)])


def tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """The text's tokens, over and over."""
    rows = [json.loads(line) for line in TEXT.read_text(encoding="utf-8").splitlines()]
    texts = ["\n".join(message["content"] for message in row["messages"]) for row in rows]
    for ids in cycle(tokenizer(texts, add_special_tokens=False)["input_ids"]):
        yield from ids
