"""A batch as one flat row of its sequences, never padded.

Shapes: T tokens of the batch, S sequences, L supervised tokens (labels), N the longest sequence.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import torch
from torch import Tensor

from ft.data import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PackedBatch(TypedDict):
    """Sequences concatenated, with what a step needs precomputed on the host, so that a GPU is never waited for."""

    input_ids: Tensor
    """(1, T)"""
    position_ids: Tensor
    """(1, T), from 0 in each sequence"""
    labels: Tensor
    """(1, T), not shifted; the first token of each sequence has no predecessor and is always -100"""
    cu_seqlens: Tensor
    """(S + 1,) int32: sequence s is ``cu_seqlens[s]:cu_seqlens[s + 1]``"""
    max_length: int
    """N"""
    rows: Tensor
    """(L,) the positions whose next token is a label, ascending"""
    targets: Tensor
    """(L,) the labels themselves"""
    sequence_of: Tensor
    """(L,) the sequence that each label belongs to"""
    weights: NotRequired[Tensor]
    """(L,) float32 factor of each label's loss; absent when all are 1"""


def pack(features: Sequence[Mapping[str, Any]]) -> PackedBatch:
    """Concatenate features that have ``input_ids``, ``labels`` and perhaps ``loss_weights``, all of one length each.

    Packing never regroups: the row holds exactly these examples, so a step is the step of the padded batch.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    starts = [0, *accumulate(lengths)]
    labels = _flat(features, "labels", torch.long)
    labels[torch.tensor([start for start in starts[:-1] if start < starts[-1]], dtype=torch.long)] = IGNORE
    cu_seqlens = torch.tensor(starts, dtype=torch.int32)
    places = (labels != IGNORE).nonzero(as_tuple=True)[0]
    positions = torch.cat([torch.arange(length) for length in lengths])
    batch = PackedBatch(
        input_ids=_flat(features, "input_ids", torch.long)[None],
        position_ids=positions[None],
        labels=labels[None],
        cu_seqlens=cu_seqlens,
        max_length=max(lengths),
        rows=places - 1,
        targets=labels[places],
        sequence_of=torch.searchsorted(cu_seqlens, places.to(torch.int32), right=True) - 1,
    )
    if any("loss_weights" in feature for feature in features):
        batch["weights"] = _weights(features)[places]
    return batch


def pad(batch: PackedBatch) -> dict[str, Tensor]:
    """The same examples as transformers' padded batch: ``input_ids``, ``attention_mask`` and ``labels``, each (S, N).

    Padding stands on the right and has id 0; it is masked, so the id does not matter. No host synchronisation.
    """
    sequences = batch["cu_seqlens"].shape[0] - 1
    column = batch["position_ids"][0]
    row = (column == 0).cumsum(0) - 1
    place = row * batch["max_length"] + column

    def spread(values: Tensor, fill: int) -> Tensor:
        padded = values.new_full((sequences * batch["max_length"],), fill)
        return padded.index_copy(0, place, values).view(sequences, -1)

    tokens = batch["input_ids"][0]
    return {
        "input_ids": spread(tokens, 0),
        "attention_mask": spread(torch.ones_like(tokens), 0),
        "labels": spread(batch["labels"][0], IGNORE),
    }


def per_sequence(batch: PackedBatch, values: Tensor) -> Tensor:
    """Sum values (L,), one for each label, over the labels of each sequence: (S,)."""
    sums = values.new_zeros(batch["cu_seqlens"].shape[0] - 1)
    return sums.index_add(0, batch["sequence_of"], values)


def _flat(features: Sequence[Mapping[str, Any]], name: str, dtype: torch.dtype) -> Tensor:
    if isinstance(features[0][name], Tensor):
        return torch.cat([feature[name] for feature in features]).to(dtype, copy=True)
    return torch.tensor(list(chain.from_iterable(feature[name] for feature in features)), dtype=dtype)


def _weights(features: Sequence[Mapping[str, Any]]) -> Tensor:
    """(T,) loss weights; a feature without them counts 1 for each of its tokens."""
    weights = [feature.get("loss_weights", [1.0] * len(feature["input_ids"])) for feature in features]
    return torch.cat([torch.as_tensor(each, dtype=torch.float32) for each in weights])
