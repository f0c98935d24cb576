"""A batch as one flat row of its sequences, never padded.

Sequences that begin alike (the answers to one prompt) may share that beginning: it stands in the row once, before the
first of them; each further *branch* is a run of its own tokens alone, which sees the prompt and itself.

Shapes: T tokens of the row, S sequences, K keys (what the sequences see: T plus the shared prompts again), L supervised
tokens (labels), N the longest sequence.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

import torch
from torch import Tensor

from ft.data import IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Feature = Mapping[str, Any]

PROMPT: Final = {"labels": IGNORE, "loss_weights": 1.0}
"""What stands for each token of a prompt, which is never learned."""


class PackedBatch(TypedDict):
    """Sequences concatenated, with what a step needs precomputed on the host, so that a GPU is never waited for."""

    input_ids: Tensor
    """(1, T)"""
    position_ids: Tensor
    """(1, T), from 0 in each sequence; those of a branch go on from its prompt"""
    labels: Tensor
    """(1, T), not shifted; a token without a predecessor is always -100"""
    cu_seqlens: Tensor
    """(S + 1,) int32: the own tokens of sequence s are ``cu_seqlens[s]:cu_seqlens[s + 1]``"""
    max_length: int
    """N"""
    rows: Tensor
    """(L,) the position that predicts each label: the one before it, or the last of the prompt"""
    targets: Tensor
    """(L,) the labels themselves"""
    sequence_of: Tensor
    """(L,) the sequence that each label belongs to"""
    weights: NotRequired[Tensor]
    """(L,) float32 factor of each label's loss; absent when all are 1"""
    reference: NotRequired[Tensor]
    """(L,) float32, what the features' ``reference`` says of each label; absent when none has one"""
    cu_keys: NotRequired[Tensor]
    """(S + 1,) int32: sequence s sees the keys ``cu_keys[s]:cu_keys[s + 1]``; absent without branches.

    A sequence with more keys than tokens begins with the first tokens of the last sequence that has none."""
    key_rows: NotRequired[Tensor]
    """(K,) the position of each key in the row; absent without branches"""


def pack(features: Sequence[Feature]) -> PackedBatch:
    """Concatenate features without regrouping them: the row holds exactly these examples.

    A feature has ``input_ids``, ``labels`` and perhaps ``loss_weights``, of one length; or ``prompt_ids`` and
    ``branches``, a list of such. ``reference``, of a feature or a branch, has one value for each label, in order.

    Raises:
        ValueError: some labels have a ``reference`` and others not.
    """
    runs, shared = _runs(features)
    lengths = [len(run["input_ids"]) for run in runs]
    starts = [0, *accumulate(lengths)]
    prompts = _prompts(starts, shared)
    labels, before = _flat(runs, "labels", torch.long), torch.arange(-1, starts[-1] - 1)
    for (start, end), prompt in zip(pairwise(starts), prompts, strict=True):
        if start == end:
            continue
        if len(prompt):
            before[start] = prompt.stop - 1
        else:
            labels[start] = IGNORE
    cu_seqlens = torch.tensor(starts, dtype=torch.int32)
    places = (labels != IGNORE).nonzero(as_tuple=True)[0]
    reaches = [length + prefix for length, prefix in zip(lengths, shared, strict=True)]
    batch = PackedBatch(
        input_ids=_flat(runs, "input_ids", torch.long)[None],
        position_ids=torch.cat([torch.arange(*reach) for reach in zip(shared, reaches, strict=True)])[None],
        labels=labels[None],
        cu_seqlens=cu_seqlens,
        max_length=max(reaches),
        rows=before[places],
        targets=labels[places],
        sequence_of=torch.searchsorted(cu_seqlens, places.to(torch.int32), right=True) - 1,
    )
    if any(shared):
        batch["cu_keys"] = torch.tensor([0, *accumulate(reaches)], dtype=torch.int32)
        seen = chain.from_iterable(zip(prompts, map(range, starts, starts[1:]), strict=True))
        batch["key_rows"] = torch.cat([torch.arange(part.start, part.stop) for part in seen])
    if any("loss_weights" in run for run in runs):
        batch["weights"] = _weights(runs)[places]
    if any("reference" in run for run in runs):
        batch["reference"] = _per_label([run["reference"] for run in runs if "reference" in run], len(places))
    return batch


def pad(batch: PackedBatch) -> dict[str, Tensor]:
    """The same examples as transformers' padded batch: ``input_ids``, ``attention_mask`` and ``labels``, each (S, N).

    A shared prompt stands in each of its sequences. Padding stands on the right and has id 0; it is masked, so the id
    does not matter. No host synchronisation.
    """
    bounds = batch.get("cu_keys", batch["cu_seqlens"])
    tokens, labels, column = batch["input_ids"][0], batch["labels"][0], batch["position_ids"][0]
    if "key_rows" in batch:
        tokens, labels, column = (values[batch["key_rows"]] for values in (tokens, labels, column))
    every = torch.arange(len(tokens), device=tokens.device, dtype=torch.int32)
    place = (torch.searchsorted(bounds, every, right=True) - 1) * batch["max_length"] + column

    def spread(values: Tensor, fill: int) -> Tensor:
        padded = values.new_full(((len(bounds) - 1) * batch["max_length"],), fill)
        return padded.index_copy(0, place, values).view(len(bounds) - 1, -1)

    return {
        "input_ids": spread(tokens, 0),
        "attention_mask": spread(torch.ones_like(tokens), 0),
        "labels": spread(labels, IGNORE),
    }


def per_sequence(batch: PackedBatch, values: Tensor) -> Tensor:
    """Sum values (L,), one for each label, over the labels of each sequence: (S,)."""
    sums = values.new_zeros(batch["cu_seqlens"].shape[0] - 1)
    return sums.index_add(0, batch["sequence_of"], values)


def _runs(features: Sequence[Feature]) -> tuple[Sequence[Feature], list[int]]:
    """The features with the branches of each as runs of their own, and how many tokens of a prompt each run lacks."""
    if not any("branches" in feature for feature in features):
        return features, [0] * len(features)
    runs: list[Feature] = []
    shared: list[int] = []
    for feature in features:
        grown = list(_branches(feature)) if "branches" in feature else [feature]
        runs += grown
        shared += [0] + [len(feature.get("prompt_ids", ()))] * (len(grown) - 1)
    return runs, shared


def _branches(feature: Feature) -> Iterator[Feature]:
    """The first branch after the prompt, and the others alone. A ``reference`` for all of them goes with the first."""
    prompt, (first, *others) = feature["prompt_ids"], feature["branches"]
    known = {key: _join([fill] * len(prompt), first[key]) for key, fill in PROMPT.items() if key in first}
    both = {key: source[key] for source in (feature, first) for key in ("reference",) if key in source}
    yield {"input_ids": _join(prompt, first["input_ids"]), **known, **both}
    yield from others


def _prompts(starts: list[int], shared: list[int]) -> list[range]:
    """Where in the row the shared prompt of each run stands; an empty range for a run that has none."""
    origin, prompts = 0, []
    for start, prefix in zip(starts, shared, strict=False):
        origin = origin if prefix else start
        prompts.append(range(origin, origin + prefix))
    return prompts


def _join(first: Any, second: Any) -> Any:
    if isinstance(second, Tensor):
        return torch.cat([torch.as_tensor(first, dtype=second.dtype), second])
    return [*first, *second]


def _flat(features: Sequence[Feature], name: str, dtype: torch.dtype) -> Tensor:
    if isinstance(features[0][name], Tensor):
        return torch.cat([feature[name] for feature in features]).to(dtype, copy=True)
    return torch.tensor(list(chain.from_iterable(feature[name] for feature in features)), dtype=dtype)


def _weights(features: Sequence[Feature]) -> Tensor:
    """(T,) loss weights; a feature without them counts 1 for each of its tokens."""
    weights = [feature.get("loss_weights", [1.0] * len(feature["input_ids"])) for feature in features]
    return torch.cat([torch.as_tensor(each, dtype=torch.float32) for each in weights])


def _per_label(columns: list[Any], labels: int) -> Tensor:
    values = torch.cat([torch.as_tensor(column, dtype=torch.float32) for column in columns])
    if len(values) != labels:
        raise ValueError(f"the features have {len(values)} reference values for {labels} labels")
    return values
