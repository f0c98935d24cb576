"""The trainer of supervised fine-tuning: packed rows, the loss of dynamic fine-tuning, and token accuracy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from ft.data import IGNORE
from ft.training import PackedTrainer, pad, per_sequence
from ft_plugins.stages._packing import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ft.training import PackedBatch

ROWS_AT_ONCE: Final = 256
"""Label rows whose logits exist together when accuracy is measured."""


class SftTrainer(PackedTrainer):
    """Cross-entropy, or what the options make of it.

    Args:
        dft: weight the loss of each token by its own probability, which counts as a constant: -sg(p) · log p
            (Wu et al. 2025, "On the Generalization of SFT", arXiv:2508.05629, equation 9). Evaluation stays plain
            cross-entropy, so that losses compare.
        accuracy: evaluate ``accuracy`` too, the share of labels that are the likeliest token.
    """

    def __init__(self, *args: Any, dft: bool = False, accuracy: bool = False, **kwargs: Any) -> None:
        self.dft = dft
        self.accuracy = accuracy
        super().__init__(*args, **kwargs)

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        return super().collate(unpacked(features))

    def loss(self, model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
        if not self.dft:
            return super().loss(model, batch, normaliser)
        log_probs = self.engine.log_probs(batch, model)
        losses = -log_probs * log_probs.detach().exp() * batch.get("weights", 1.0)
        return losses.sum() / normaliser

    def measure(self, model: nn.Module, batch: PackedBatch) -> Mapping[str, tuple[Tensor, Tensor]]:
        if not self.accuracy:
            return super().measure(model, batch)
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        with _inputs_of(head) as inputs:
            measures = super().measure(model, batch)
        hidden = _label_rows(inputs[-1], batch)
        parts = (hidden[start : start + ROWS_AT_ONCE] for start in range(0, len(hidden), ROWS_AT_ONCE))
        likeliest = torch.cat([batch["targets"][:0], *(head(rows).argmax(-1) for rows in parts)])
        right = (likeliest == batch["targets"]).float()
        return {**measures, "accuracy": (per_sequence(batch, right), per_sequence(batch, torch.ones_like(right)))}


@contextmanager
def _inputs_of(head: nn.Module) -> Iterator[list[Tensor]]:
    """Keeps what the head is given: hidden states before logits are made of them."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _label_rows(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """(L, h) of a packed row's label rows (1, L, h), or of all positions of the padded batch (S, N, h)."""
    if hidden.shape[:2] == (1, len(batch["targets"])):
        return hidden[0]
    return hidden[:, :-1][pad(batch)["labels"][:, 1:] != IGNORE]
