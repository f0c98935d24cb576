"""Batched generation gives what transformers gives one prompt at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.testing import tiny_model, tiny_tokenizer
from ft.training import Engine, generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

PROMPTS = ("Who are you?", "The capital", "What is the capital of France? And of Italy? And of", "One two", "A")


def one_at_a_time(model: Any, prompt: str, **options: Any) -> str:
    tokenizer = tiny_tokenizer()
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        output = model.eval().generate(**inputs, do_sample=False, max_new_tokens=10, use_cache=True, **options)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("arch", ["llama", "mistral-sliding", "gemma3", "gemma2"])
def test_greedy_answers_are_transformers(arch: str, batch_size: int) -> None:
    expected = [one_at_a_time(tiny_model(arch), prompt) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    engine = Engine(tiny_model(arch).train())
    assert generate(engine.model, tiny_tokenizer(), PROMPTS, max_new_tokens=10, batch_size=batch_size) == expected


def test_an_adapter_takes_part(build: Callable[..., nn.Module]) -> None:
    model = build("llama", "lora")
    expected = [one_at_a_time(build("llama", "lora"), prompt) for prompt in PROMPTS]
    assert generate(model, tiny_tokenizer(), PROMPTS, max_new_tokens=10) == expected
    assert expected != [one_at_a_time(tiny_model("llama"), prompt) for prompt in PROMPTS]


def test_the_model_is_left_as_it_was(build: Callable[..., nn.Module]) -> None:
    model = build()
    Engine(model)
    model.config.use_cache = False  # type: ignore[union-attr]  # as training leaves it
    generate(model, tiny_tokenizer(), PROMPTS, max_new_tokens=2)
    assert model.training
    assert model.config._attn_implementation == "ft_packed"  # type: ignore[union-attr]
    assert model.config.use_cache is False  # type: ignore[union-attr]


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_stop_text_ends_an_answer(tokens: int) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    answer = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=20)[0]
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    stop = tokenizer.decode(ids[4 : 4 + tokens])
    stopped = generate(model, tokenizer, PROMPTS, max_new_tokens=20, stop=[stop])
    assert stopped[0] == answer[: answer.index(stop)]


def test_no_prompts_are_no_answers() -> None:
    assert generate(tiny_model(), tiny_tokenizer(), []) == []
