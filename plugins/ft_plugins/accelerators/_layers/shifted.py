"""Shifted sparse attention: each half of the heads attends within groups, the second half's shifted by half a group.

Chen et al. 2023, "LongLoRA" (arXiv:2309.12307). A group is a part of a sequence: cutting the boundaries of a packed row
finer makes each half an ordinary packed attention. The first shifted group is half as long, so that the end of a
sequence is never joined to its beginning, as the paper's roll does.

Shapes: T tokens of the row, K keys, H heads, D head size, g tokens of a group.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ft.training import unwrap
from ft.training.attention import NAME, packed_attention

if TYPE_CHECKING:
    from collections.abc import Callable


def use_shifted_attention(model: nn.Module, group: int) -> None:
    """Attend within groups while training; evaluation and generation attend in full.

    The kernel that was chosen before goes on computing.
    """
    base: Any = unwrap(model)
    inner = AttentionInterface().get(base.config._attn_implementation, packed_attention)
    if not str(base.config._attn_implementation).startswith(NAME):
        inner = packed_attention
    name = f"{NAME}_shift_{group}_{base.config._attn_implementation}"

    def attend(module: nn.Module, *states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        if not module.training:
            return inner(module, *states, **kwargs)  # type: ignore[no-any-return]  # of transformers' table
        return shifted(inner, group, module, *states, **kwargs)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    base.set_attn_implementation(name)


def shifted(
    inner: Callable[..., Any],
    group: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    key_rows: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Query (B, H, T, D), key and value (B, H or fewer, T, D) → (B, T, H, D).

    Args:
        inner: packed attention, which computes each half.
        group: g.
        module: the attention module.
        query: see above.
        key: likewise.
        value: likewise; all of a packed row (B is 1), or of rows padded on the right.
        mask: of a padded batch, (B, 1, T, T): says where padding begins.
        cu_seq_lens_q: boundaries of a packed row's own tokens; ``None`` for a padded batch.
        cu_seq_lens_k: boundaries of the keys, where branches share a prompt.
        key_rows: the place of each key in the row, likewise.
        kwargs: of ``inner``; the longest sequence of a row is replaced by the longest group.
    """
    shape = query.shape
    if cu_seq_lens_q is None:
        ends = _rows(mask, shape[0], shape[2]).to(query.device)
        query, key, value = (states.transpose(0, 1).flatten(1, 2)[None] for states in (query, key, value))
    elif key_rows is not None:  # each branch with its prompt: what the prompt's tokens see is computed again
        query, key, value = (states.index_select(2, key_rows) for states in (query, key, value))
        ends = cu_seq_lens_k if cu_seq_lens_k is not None else cu_seq_lens_q
    else:
        ends = cu_seq_lens_q
    heads = query.shape[1]
    halves = []
    for part, (cuts, longest) in zip((slice(heads // 2), slice(heads // 2, None)), _groups(ends, group), strict=True):
        states = (query[:, part], *(_of_heads(each, heads, part) for each in (key, value)))
        marks = {"cu_seq_lens_q": cuts, "cu_seq_lens_k": cuts, "max_length_q": longest, "max_length_k": longest}
        halves.append(inner(module, *states, None, **{**kwargs, **marks})[0])
    result = torch.cat(halves, dim=2)
    if cu_seq_lens_q is None:
        result = result.view(shape[0], shape[2], *result.shape[2:])
    elif key_rows is not None:
        result = result[:, _own(cu_seq_lens_q, ends)]
    return result, None


def _rows(mask: Tensor | None, rows: int, length: int) -> Tensor:
    """The boundaries of padded rows laid end to end; the padding of a row is a sequence of its own.

    The last token of a row, padding or not, sees all of the row that is none.
    """
    if mask is None:
        return torch.arange(rows + 1, dtype=torch.int32) * length
    seen = (mask if mask.dtype == torch.bool else mask == 0)[:, 0, -1].sum(-1).tolist()
    ends = {end for row, own in enumerate(seen) for end in (row * length + own, (row + 1) * length)}
    return torch.tensor(sorted({0, *ends}), dtype=torch.int32)


_GROUPS: Final = WeakTensorKeyDictionary()


def _groups(ends: Tensor, group: int) -> list[tuple[Tensor, int]]:
    """Of either half the boundaries of its groups, and the longest; made once for all layers, which share ``ends``."""
    if ends not in _GROUPS:
        cut = [_cut(ends.tolist(), group, offset) for offset in (group, group // 2)]
        longest = [max(end - start for start, end in pairwise(cuts)) for cuts in cut]
        tensors = [torch.tensor(cuts, dtype=torch.int32, device=ends.device) for cuts in cut]
        _GROUPS[ends] = list(zip(tensors, longest, strict=True))
    return _GROUPS[ends]  # type: ignore[no-any-return]  # torch's dictionary is untyped


def _cut(bounds: list[int], group: int, offset: int) -> list[int]:
    """The boundaries with those of the groups: the first group of a sequence has ``offset`` tokens, the others g.

    A sequence that is no longer than a group stays whole.
    """
    cuts = [0]
    for start, end in pairwise(bounds):
        if end - start > group:
            cuts += range(start + offset, end, group)
        cuts.append(end)
    return cuts


def _of_heads(states: Tensor, heads: int, part: slice) -> Tensor:
    """The keys or values of some of the query's heads; repeated where a shared one belongs to both halves."""
    shared = states.shape[1]
    if shared % 2 == 0:
        return states[:, : shared // 2] if part.start is None else states[:, shared // 2 :]
    return states.repeat_interleave(heads // shared, 1)[:, part]


def _own(own: Tensor, seen: Tensor) -> Tensor:
    """(T,): the places of each sequence's own tokens, the last of those that it sees."""
    ends, lengths = seen.tolist()[1:], own.diff().tolist()
    places = [torch.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return torch.cat(places).to(own.device)
