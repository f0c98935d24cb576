"""Greedy or sampled answers to many prompts at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from ft.training.attention import NAME
from ft.training.capability import unwrap
from ft.training.engine import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

BATCH: Final = 16


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    do_sample: bool = False,
    batch_size: int = BATCH,
    **options: Any,
) -> list[str]:
    """The answers to prompts that are already rendered, in their order, without special tokens and stop texts.

    Prompts of similar length share a batch, padded on the left, with a key-value cache. The model is put back into the
    mode it was in.

    Args:
        model: a causal language model of transformers, perhaps inside PEFT.
        tokenizer: adds nothing to the prompts: a rendered prompt holds its own special tokens.
        prompts: texts that end where an answer begins.
        max_new_tokens: of each answer.
        stop: texts that end an answer, besides the model's own end-of-text tokens.
        do_sample: draw from the distribution instead of taking the likeliest token.
        batch_size: prompts in one batch.
        options: anything else of ``model.generate``, e.g. ``temperature``.
    """
    encoded: list[list[int]] = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    answers = [""] * len(prompts)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample,
        "use_cache": True,  # training has switched it off in the model's configuration
        "pad_token_id": _padding_id(tokenizer),
        **_stops(model, tokenizer, stop),
        **options,
    }
    with evaluating(model), _plain_attention(model), torch.no_grad():
        for batch in _buckets(encoded, batch_size):
            inputs = _left_padded([encoded[index] for index in batch], settings["pad_token_id"], model)
            output = model.generate(**inputs, **settings)  # type: ignore[operator]  # a transformers model
            for index, tokens in zip(batch, output[:, inputs["input_ids"].shape[1] :], strict=True):
                answers[index] = _text(tokenizer, tokens, stop)
    return answers


def _buckets(encoded: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length."""
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _left_padded(rows: Sequence[list[int]], padding: int, model: nn.Module) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows)
    tokens = [[padding] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    device = next(model.parameters()).device
    return {"input_ids": torch.tensor(tokens, device=device), "attention_mask": torch.tensor(mask, device=device)}


def _padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Padding is masked, so any id will do where there is none for it."""
    return next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)


def _stops(model: nn.Module, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> dict[str, Any]:
    """Stop texts that are one token end a row exactly; the others are looked for in the text."""
    known = unwrap(model).generation_config.eos_token_id  # type: ignore[union-attr]  # a transformers model
    ends = {*(known if isinstance(known, list) else [known]), tokenizer.eos_token_id} - {None}
    encoded = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in stop}
    ends |= {ids[0] for ids in encoded.values() if len(ids) == 1}
    texts = [text for text, ids in encoded.items() if len(ids) > 1]
    chosen: dict[str, Any] = {"eos_token_id": sorted(ends)} if ends else {}
    return chosen | ({"stop_strings": texts, "tokenizer": tokenizer} if texts else {})


def _text(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor, stop: Sequence[str]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    ends = [position for each in stop if (position := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Plain ``sdpa`` for a while: caches and compilation in transformers know it by name."""
    base: Any = unwrap(model)
    before = base.config._attn_implementation
    if before == NAME:
        base.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        base.set_attn_implementation(before)
