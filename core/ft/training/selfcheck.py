"""What the engine proves itself on: a small part of the first batch, and how much of a difference rounding explains."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from ft.training.packing import PackedBatch, pack

CHECK_SEQUENCES: Final = 2
CHECK_TOKENS: Final = 64
"""What the self-check costs at most: two forwards of this many sequences of this many tokens, once."""

TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 0.3, torch.float16: 0.05}
"""Mean difference of log-probabilities that rounding explains. Kernels that round differently lie 0.05 to 0.08 apart in
bf16 over thirty layers (the logits themselves are rounded to 1/8); a sequence that sees its neighbour, above 1."""


def sample(batch: PackedBatch, longest: int = CHECK_TOKENS) -> PackedBatch:
    """The shortest sequences of a batch, cut, every token a label; and, as two branches of a prompt, parts of them.

    The branches have half as many tokens more than ``longest``.

    A lone one is taken twice, to have a neighbour that it must not see.
    """
    bounds = batch["cu_seqlens"].tolist()
    parts = [batch["input_ids"][0, start:end] for start, end in pairwise(bounds)]
    shortest = sorted((part[:longest] for part in parts if len(part) > 1), key=len)[:CHECK_SEQUENCES]
    if not shortest:
        shortest = [batch["input_ids"][0, :1].repeat(longest)]
    parts = shortest * CHECK_SEQUENCES if len(shortest) == 1 else shortest
    whole = [_learned(part.cpu()) for part in parts]
    prompt, *rest = parts[0].cpu().tensor_split(2)
    packed = pack([*whole, {"prompt_ids": prompt, "branches": [_learned(part) for part in (*rest, parts[1].cpu())]}])
    device = batch["input_ids"].device
    return {  # type: ignore[return-value]  # the same keys
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in packed.items()
    }


def _learned(tokens: Tensor) -> dict[str, Tensor]:
    return {"input_ids": tokens, "labels": tokens}
