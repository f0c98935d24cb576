"""Greedy or sampled answers to many prompts at once."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from ft.errors import ConfigError
from ft.options import GenerationOptions
from ft.training.attention import NAME
from ft.training.capability import unwrap
from ft.training.engine import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import Plan

BATCH: Final = 16

LONGEST_ANSWER: Final = 1024
"""Tokens of an answer when nothing is said."""

GREEDY: Final = {"temperature": None, "top_p": None, "top_k": None}
"""Takes the model's own settings for drawing away where nothing is drawn."""


def generation_settings(plan: Plan) -> dict[str, Any]:
    """What a run's generation keys mean to :func:`sample` and :func:`generate`, as keyword arguments.

    Only what acts is there: the keys of drawing with ``do_sample`` alone, ``length_penalty`` with beams alone, and
    ``max_length`` only without ``max_new_tokens``. ``skip_special_tokens`` is for whoever decodes.
    """
    options = plan.of(GenerationOptions)
    length = options.max_new_tokens is None and options.max_length
    settings: dict[str, Any] = {"max_length": length} if length else {}
    settings["max_new_tokens"] = options.max_new_tokens or length or LONGEST_ANSWER
    settings |= {name: getattr(options, name) for name in ("do_sample", "num_beams", "repetition_penalty")}
    if options.do_sample:
        settings |= {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    if options.num_beams > 1:
        settings["length_penalty"] = options.length_penalty
    return settings


def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    *,
    stop: Sequence[str] = (),
    max_new_tokens: int = LONGEST_ANSWER,
    max_length: int | None = None,
    do_sample: bool = False,
    batch_size: int = BATCH,
    **options: Any,
) -> list[list[int]]:
    """The answers to prompts as token ids, in their order, each with its end token if it came to one.

    Prompts of similar length share a batch, padded on the left, with a key-value cache. No gradient is kept, and the
    model is put back into the mode it was in.

    Args:
        model: a causal language model of transformers, perhaps inside PEFT.
        tokenizer: decodes, to find stop texts of several tokens.
        prompt_ids: prompts that end where an answer begins.
        stop: texts that end an answer, besides the model's own end-of-text tokens.
        max_new_tokens: of each answer.
        max_length: of prompt and answer together, if given.
        do_sample: draw from the distribution instead of taking the likeliest token.
        batch_size: prompts in one batch.
        options: anything else of ``model.generate``, e.g. ``temperature``.

    Raises:
        ConfigError: a prompt leaves no room for an answer within ``max_length``.
    """
    rooms = [min(max_new_tokens, (max_length or sys.maxsize) - len(prompt)) for prompt in prompt_ids]
    _check_room(prompt_ids, rooms, max_length)
    stops = _stops(model, tokenizer, stop)
    settings: dict[str, Any] = {
        "do_sample": do_sample,
        **({} if do_sample else GREEDY),
        "use_cache": True,  # training has switched it off in the model's configuration
        "pad_token_id": _padding_id(tokenizer),
        **stops,
        **options,
    }
    answers: list[list[int]] = [[] for _ in prompt_ids]
    with evaluating(model), _plain_attention(model), torch.no_grad():
        for batch in _buckets(prompt_ids, batch_size):
            inputs = _left_padded([prompt_ids[index] for index in batch], settings["pad_token_id"], model)
            settings["max_new_tokens"] = max(rooms[index] for index in batch)
            output = model.generate(**inputs, **settings)  # type: ignore[operator]  # a transformers model
            for index, row in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                answers[index] = _ended(row[: rooms[index]], stops, tokenizer)
    return answers


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    stop: Sequence[str] = (),
    skip_special_tokens: bool = True,
    **settings: Any,
) -> list[str]:
    """The answers to prompts that are already rendered, in their order: :func:`sample` as text.

    Args:
        model: as for :func:`sample`.
        tokenizer: adds nothing to the prompts: a rendered prompt holds its own special tokens.
        prompts: texts that end where an answer begins.
        stop: texts that end an answer and are left out of it.
        skip_special_tokens: leave special tokens out; if not, answers come as they were produced, stop texts included.
        settings: anything else of :func:`sample`.
    """
    encoded: list[list[int]] = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    answers = sample(model, tokenizer, encoded, stop=stop, **settings)
    return answer_texts(tokenizer, answers, stop, skip_special_tokens=skip_special_tokens)


def answer_texts(
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[Sequence[int]],
    stop: Sequence[str] = (),
    *,
    skip_special_tokens: bool = True,
) -> list[str]:
    """What :func:`sample` returned as text, without special tokens and stop texts, or as it was produced."""
    texts: list[str] = [tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in answers]
    return [_before(text, stop) for text in texts] if skip_special_tokens else texts


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> set[int]:
    """The tokens that end an answer of this model: its own, the tokenizer's, and stop texts that are one token."""
    return set(_stops(model, tokenizer, stop).get("eos_token_id", ()))


def _check_room(prompt_ids: Sequence[Sequence[int]], rooms: Sequence[int], max_length: int | None) -> None:
    longest = max(map(len, prompt_ids), default=0)
    if any(room < 1 for room in rooms):
        raise ConfigError(
            f"a prompt of {longest} tokens leaves no room for an answer",
            where=f"max_length: {max_length}",
            why="max_length counts prompt and answer together",
            remedy="raise max_length, lower cutoff_len, or set max_new_tokens instead",
        )


def _ended(row: list[int], stops: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A row up to its first end token or, where that comes first, up to the end of a stop text."""
    ends = set(stops.get("eos_token_id", ()))
    length = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    texts = stops.get("stop_strings", ())
    if texts and any(text in tokenizer.decode(row[:length]) for text in texts):
        prefixes = ((size, tokenizer.decode(row[:size])) for size in range(1, length + 1))
        length = next(size for size, prefix in prefixes if any(text in prefix for text in texts))
    return row[:length]


def _before(text: str, stop: Sequence[str]) -> str:
    ends = [position for each in stop if (position := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


def _buckets(encoded: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length."""
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _left_padded(rows: Sequence[Sequence[int]], padding: int, model: nn.Module) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows)
    tokens = [[padding] * (longest - len(row)) + [*row] for row in rows]
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


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Plain ``sdpa`` for a while: caches and compilation in transformers know it by name."""
    base: Any = unwrap(model)
    before = base.config._attn_implementation
    if str(before).startswith(NAME):  # also with a kernel of a plugin's choice
        base.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        base.set_attn_implementation(before)
