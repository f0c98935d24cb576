"""Attention within the sequences of a packed row, registered in transformers under the name ``ft_packed``.

The boundaries travel as the keyword arguments that transformers itself passes from a model's ``forward`` to its
attention (``cu_seq_lens_q`` and so on). Without them the call is not ours: it behaves as ``sdpa``, masks included, so
that the same model also generates and is evaluated by others.

A sequence that shares its beginning with others has more keys than queries; the masks stand at the lower right: its
last token sees all of its keys.

Shapes: T tokens, H heads, K key and value heads, D head size.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache, lru_cache, partial
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel, varlen
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import is_flash_attn_2_available

from ft.training.capability import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from ft.training.packing import PackedBatch

NAME: Final = "ft_packed"

Kernel = Literal["fa2", "torch", "cudnn"]
"""What computes the attention of a packed row on a GPU: the package flash-attn (2), the FlashAttention inside PyTorch
(both the whole row at once), or cuDNN (a sequence at a time)."""

CUDNN_FIRST: Final = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""A call that cuDNN does not take (a mask of a shape it has no plan for) goes to the next."""

VARLEN_HEAD_SIZE: Final = 256
"""The largest head of the FlashAttention kernels."""
VARLEN_CAPABILITY: Final = (8, 0)
"""What a device must be for them: Ampere or later."""
VARLEN: Final = frozenset(signature(varlen.varlen_attn).parameters)
"""What PyTorch's kernel can be told: from 2.11 on a window and a scale; from 2.12 on that keys are shared."""

SHORT: Final = 512
"""Up to this many tokens a sequence, PyTorch's CPU attention is faster in fp32 than in bf16, whose backward packs each
small product anew: 0.9 against 2.6 ms at 54 tokens, 4.0 against 6.4 at 200, 37 against 27 at 800 (9 heads of 64)."""


def boundaries(batch: PackedBatch) -> dict[str, Any]:
    """The keyword arguments that make a model's forward packed.

    The attention mask is a placeholder: transformers hands a four-dimensional mask on as it is, where without one it
    would build a (T, T) mask from the restarting positions.
    """
    cu_seqlens, longest = batch["cu_seqlens"], batch["max_length"]
    shared = {"key_rows": batch["key_rows"]} if "key_rows" in batch else {}
    return {
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=cu_seqlens.device),
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": batch.get("cu_keys", cu_seqlens),
        "max_length_q": longest,
        "max_length_k": longest,
        **shared,
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    key_rows: Tensor | None = None,
    kernel: Kernel | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of a packed row: query (1, H, T, D), key and value (1, K, T, D) → (1, T, H, D).

    ``kernel`` is what computes it where it can; ``None``: the best one there is.

    Raises:
        NotImplementedError: soft-capping, a position bias or sinks, which no kernel here computes.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]  # transformers ships no types
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    for name in ("softcap", "position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"packed attention has no {name}")
    window = sliding_window if sliding_window and sliding_window < max_length_q else None
    bounds = (cu_seq_lens_q, cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k)
    if kernel == "cudnn" or not _varlen_can(query, dropout, kernel):
        with _backends(kernel):
            return _by_segment(query, key, value, bounds, max_length_q, dropout, scaling, window), None
    if key_rows is not None:
        key, value = key.index_select(2, key_rows), value.index_select(2, key_rows)
    return _by_varlen(query, key, value, bounds, max_length_q, dropout, scaling, window, kernel), None


def _backends(kernel: Kernel | None) -> AbstractContextManager[Any]:
    """Which of PyTorch's attention backends are asked, and in which order."""
    return sdpa_kernel(CUDNN_FIRST, set_priority=True) if kernel == "cudnn" else nullcontext()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its pieces are others each time; the decorator is untyped
def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: int,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """One SDPA a sequence. On a GPU, where only fp32 and cuDNN come here, their lengths are waited for once a batch.

    Splitting once, not slicing a sequence at a time, keeps the backward linear in T: each slice's gradient would be a
    tensor of the whole row.
    """
    dtype = query.dtype
    if dtype == torch.bfloat16 and not query.is_cuda and longest <= SHORT:
        query, key, value = query.float(), key.float(), value.float()
    own, seen = (_lengths(each) for each in bounds)
    queries_of, keys_of, values_of = (torch.split_with_sizes(states, own, dim=2) for states in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for q, (k, v) in zip(queries_of, _with_prompts(keys_of, values_of, seen), strict=True):
        queries, keys = q.shape[2], k.shape[2]
        square = queries == keys and not (window and keys > window)
        mask = None if square else _band(longest, window, q.device)[keys - queries : keys, :keys]
        output = scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, is_causal=square, scale=scaling, enable_gqa=grouped
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1).to(dtype)


_LENGTHS: Final = WeakTensorKeyDictionary()


def _lengths(bounds: Tensor) -> list[int]:
    """On the host, read once for all layers: each reading waits for the device."""
    if bounds not in _LENGTHS:
        _LENGTHS[bounds] = [end - start for start, end in pairwise(bounds.tolist())]
    return _LENGTHS[bounds]  # type: ignore[no-any-return]  # torch's dictionary is untyped


def _with_prompts(
    keys: Sequence[Tensor], values: Sequence[Tensor], lengths: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of each sequence, (1, K, its length, D), from the prompt that it shares on."""
    prompt = keys[0], values[0]
    for k, v, length in zip(keys, values, lengths, strict=True):
        shared = length - k.shape[2]
        if shared:
            yield torch.cat([prompt[0][:, :, :shared], k], 2), torch.cat([prompt[1][:, :, :shared], v], 2)
        else:
            prompt = k, v
            yield k, v


@lru_cache(maxsize=2)
def _band(longest: int, window: int | None, device: torch.device) -> Tensor:
    """(longest, longest): each token sees itself and all before it, or the ``window - 1`` before it.

    The mask of any sequence is a part of it, so that one serves all sequences and layers of a batch.
    """
    mask = torch.ones(longest, longest, dtype=torch.bool, device=device).tril_()
    return mask.triu_(1 - window) if window else mask


def _varlen_can(query: Tensor, dropout: float, kernel: Kernel | None) -> bool:
    """Whether a variable-length kernel takes this call; PyTorch's own has no dropout."""
    half = torch.float16, torch.bfloat16
    return (
        query.is_cuda
        and _compute_dtype(query) in half
        and query.shape[-1] <= VARLEN_HEAD_SIZE
        and query.shape[-1] % 8 == 0
        and _devices_can()
        and (_by_package(kernel) or (dropout == 0.0 and "window_size" in VARLEN))
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's gap
def _devices_can() -> bool:
    """Whether every device that this process sees has FlashAttention's instructions."""
    return all(each >= VARLEN_CAPABILITY for each in _capabilities())


@cache
def _capabilities() -> list[tuple[int, int]]:
    return [torch.cuda.get_device_capability(place) for place in range(torch.cuda.device_count())]


def _by_package(kernel: Kernel | None) -> bool:
    """Whether flash-attn computes, not the kernel inside PyTorch."""
    return kernel == "fa2" or (kernel is None and is_flash_attn_2_available())


def _compute_dtype(query: Tensor) -> torch.dtype:
    """Autocast does not reach the variable-length kernels, and rotary embeddings leave fp32 under it."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _by_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: int,
    dropout: float,
    scaling: float | None,
    window: int | None,
    kernel: Kernel | None,
) -> Tensor:
    """FlashAttention over the whole row at once: flash-attn when it is installed, else the copy inside PyTorch.

    Both count the window without the token itself, and align queries and keys at their ends.
    """
    dtype = _compute_dtype(query)
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))  # (T, heads, D)
    left = window - 1 if window else -1
    if _by_package(kernel):
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # optional

        output: Tensor = flash_attn_varlen_func(
            q,
            k,
            v,
            *bounds,
            longest,
            longest,
            dropout_p=dropout,
            softmax_scale=scaling,
            causal=True,
            window_size=(left, 0) if window else (-1, -1),
        )
    else:
        shared = {"enable_gqa": q.shape[1] != k.shape[1]} if "enable_gqa" in VARLEN else {}
        result = varlen.varlen_attn(
            q,
            k,
            v,
            *bounds,
            longest,
            longest,
            scale=scaling,
            window_size=(left, 0),
            **shared,  # type: ignore[arg-type]  # one option, of a known type
        )
        assert isinstance(result, Tensor)
        output = result
    return output[None]


def register() -> None:
    """Make ``ft_packed`` known to transformers; the masks of calls without boundaries are those of ``sdpa``."""
    for kernel in (None, *get_args(Kernel)):
        AttentionInterface.register(_name(kernel), partial(packed_attention, kernel=kernel))
        AttentionMaskInterface.register(_name(kernel), sdpa_mask)


def use_attention_kernel(model: nn.Module, kernel: Kernel | None = None) -> None:
    """Attend within the sequences of packed rows, by one kernel instead of the best there is if one is named.

    A plugin names one before the trainer is built; the engine, which names none, keeps it. A call that the kernel
    cannot take (fp32, a head of more than 256) is computed a sequence at a time as ever.
    """
    register()
    base: Any = unwrap(model)
    if kernel is not None or not str(base.config._attn_implementation).startswith(NAME):
        base.set_attn_implementation(_name(kernel))


def _name(kernel: Kernel | None) -> str:
    return f"{NAME}_{kernel}" if kernel else NAME
