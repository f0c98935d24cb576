"""A reward model at work: texts in, scores out. Used by ``ft score`` and by the stages that learn from rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ft.data import IGNORE, encode_batch
from ft.data.openings import PROBE
from ft.errors import DataError
from ft.training.engine import Engine, evaluating
from ft.training.packing import pack
from ft_hookspecs import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import Template

TOKENS: Final = 4096
"""Tokens of one forward, unless a single text has more."""


class Scorer:
    """Scores texts at their last tokens, packed, in evaluation mode and without gradients.

    Args:
        model: a causal language model, perhaps inside PEFT.
        head: its value head.
        tokenizer: a fast one; adds nothing to the texts.
        attention: as for :class:`ft.training.engine.Engine`.
        decide: told each decision with its reason.
        tell_cuts: when given, a text longer than the model reads is cut instead of refused, and this is told: what a
            policy writes can be more tokens to a reward model than it was to the policy.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        attention: Any = "auto",
        decide: Callable[[str], None] = lambda _: None,
        tell_cuts: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.head = head
        self.tokenizer = tokenizer
        self.tell_cuts = tell_cuts
        self.engine = Engine(model, attention, decide)

    def to(self, device: torch.device | str) -> None:
        """Move model and head."""
        self.model.to(device)
        self.head.to(device)

    def __call__(self, texts: Sequence[str], places: Sequence[str] = ()) -> Tensor:
        """The score of each text, in order: (n,) fp32 on the CPU.

        Raises:
            DataError: a text without tokens, or longer than the model can read; names its place.
        """
        encoded = [encoding.ids for encoding in encode_batch(self.tokenizer, texts)] if texts else []
        longest = getattr(self.engine.base.config, "max_position_embeddings", None) or max(map(len, encoded), default=1)
        if self.tell_cuts is not None:
            encoded = [self._cut(ids, longest) for ids in encoded]
        check_lengths(encoded, longest, places)
        scores = torch.empty(len(encoded))
        with evaluating(self.model), evaluating(self.head), torch.no_grad():
            for indices in batches([len(ids) for ids in encoded], TOKENS):
                scores[indices] = self._scores([encoded[index] for index in indices])
        return scores

    def _scores(self, rows: list[list[int]]) -> Tensor:
        packed = pack([{"input_ids": ids, "labels": [IGNORE] * len(ids)} for ids in rows])
        device = next(self.model.parameters()).device
        batch: Any = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in packed.items()}
        self.engine.check(batch)
        return self.engine.scores(batch, self.head).float().cpu()

    def _cut(self, ids: list[int], longest: int) -> list[int]:
        """The beginning of a text, with the last token, at which it is scored."""
        if len(ids) <= longest or self.tell_cuts is None:
            return ids
        self.tell_cuts(f"answers beyond {longest} tokens, the longest text that the reward model reads, are cut for it")
        return [*ids[: longest - 1], ids[-1]]


def check_lengths(encoded: Sequence[Sequence[int]], longest: int, places: Sequence[str]) -> None:
    """Refuse a text that the model cannot read.

    Raises:
        DataError: it has no token, or more than ``longest``; names its place.
    """
    for number, ids in enumerate(encoded):
        if not 0 < len(ids) <= longest:
            raise DataError(
                f"a text to score has {len(ids)} tokens",
                where=places[number] if places else f"text {number + 1} of {len(encoded)}",
                why=f"the reward model reads texts of 1 to {longest} tokens",
                remedy="shorten it",
            )


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``most`` tokens together (a longer one is alone), the shortest first."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[index] > most:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def end_of_answer(template: Template) -> str:
    """What the template writes after an answer, up to its end marker: the last token is where answers are scored.

    Raises:
        DataError: the template refuses a question and an answer.
    """
    text = template.render((Message("user", "A question?"), Message("assistant", PROBE)))
    return without_trailing_space(text, template).rpartition(PROBE)[2]


def without_trailing_space(text: str, template: Template) -> str:
    """A rendered conversation without the white space that the template writes after the end of the last turn."""
    ended = text.rstrip()
    return ended if template.stop and ended.endswith(tuple(template.stop)) else text
