"""NEFTune: uniform noise on the embeddings while training.

Reference:
    Jain et al. 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (arXiv:2310.05914). The noise of a
    sequence of L tokens of d numbers is drawn from ±alpha / √(L · d), with L the sequence's own length: neither the
    row that it is packed into nor the padding counts.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ft.training.capability import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from ft.training.packing import PackedBatch


@contextmanager
def noisy_embeddings(model: nn.Module, batch: PackedBatch, alpha: float | None) -> Iterator[None]:
    """While open, the embeddings of ``batch`` come with noise, but for a model in evaluation mode."""
    if not alpha:
        yield
        return

    def add(module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        return embedded + torch.empty_like(embedded).uniform_(-alpha, alpha) * _scale(batch, embedded)

    hook = unwrap(model).get_input_embeddings().register_forward_hook(add)  # type: ignore[operator]  # a PreTrainedModel
    try:
        yield
    finally:
        hook.remove()


def _scale(batch: PackedBatch, embedded: Tensor) -> Tensor:
    """1 / √(L · d) for each token: (1, T, 1) of a packed row (1, T, d), (S, 1, 1) of a padded batch (S, N, d).

    A branch is as long as its prompt and itself.
    """
    runs = batch["cu_seqlens"].diff()
    lengths = batch.get("cu_keys", batch["cu_seqlens"]).diff()
    scale = (lengths * embedded.shape[-1]).float().rsqrt().to(embedded.dtype)  # L · d is beyond float16
    if len(embedded) == len(lengths):
        return scale[:, None, None]
    return scale.repeat_interleave(runs, output_size=embedded.shape[1])[None, :, None]
