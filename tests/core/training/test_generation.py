"""Batched generation gives what transformers gives one prompt at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.errors import ConfigError
from ft.options import GenerationOptions, idle_generation_keys
from ft.testing import tiny_model, tiny_tokenizer
from ft.training import Engine, generate, generation_settings, sample
from ft_hookspecs import Plan, Source

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
    model.config.use_cache = False  # as training leaves it
    generate(model, tiny_tokenizer(), PROMPTS, max_new_tokens=2)
    assert model.training
    assert model.config._attn_implementation == "ft_packed"
    assert model.config.use_cache is False


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


# ---- token ids and generation keys


def plan_of(**keys: Any) -> Plan:
    sources = dict.fromkeys(keys, Source("file", "run.yaml:1"))
    options = GenerationOptions(**keys)
    return Plan(options.model_dump(), sources, (), (options,), None)


def encoded(prompts: tuple[str, ...] = PROMPTS) -> list[list[int]]:
    tokenizer = tiny_tokenizer()
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]


def answers(model: Any = None, **keys: Any) -> list[list[int]]:
    torch.manual_seed(0)
    plan = plan_of(**{"do_sample": False, "max_new_tokens": 12, **keys})
    return sample(model or tiny_model(), tiny_tokenizer(), encoded(), **generation_settings(plan))


def likelihood(prompt: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        logits = tiny_model().eval()(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


def test_ids_end_with_the_end_token() -> None:
    model, greedy = tiny_model(), answers()
    end = greedy[0][5]
    model.generation_config.eos_token_id = end
    ended = answers(model)
    for row, whole in zip(ended, greedy, strict=True):
        assert row == (whole[: whole.index(end) + 1] if end in whole else whole)
    assert len(ended[0]) <= 6


@pytest.mark.parametrize("padding", [3, None])
def test_ids_end_with_a_stop_text(padding: int | None) -> None:
    tokenizer, (greedy, *_) = tiny_tokenizer(), answers()
    tokenizer.pad_token = tokenizer.decode(padding) if padding else None  # else rows are padded with the end token
    stop = tokenizer.decode(greedy[1:3])
    assert len(tokenizer(stop, add_special_tokens=False)["input_ids"]) > 1
    rows = sample(tiny_model(), tokenizer, encoded(), stop=[stop], max_new_tokens=12)
    assert rows[0] == greedy[: len(rows[0])]
    assert stop in tokenizer.decode(rows[0])
    assert stop not in tokenizer.decode(rows[0][:-1])


def test_drawing() -> None:
    assert answers() == answers() != answers(do_sample=True)
    assert answers(do_sample=True) == answers(do_sample=True)
    assert answers(do_sample=True, temperature=0.01) == answers()
    assert answers(do_sample=True, top_p=1.0) != answers(do_sample=True, top_p=0.3)
    assert answers(do_sample=True, top_k=1) == answers()
    assert answers(do_sample=True, top_k=0, top_p=1.0) != answers(do_sample=True, top_k=5, top_p=1.0)


def test_beams_find_likelier_answers_and_the_penalty_chooses_their_length() -> None:
    prompts = encoded()
    scores = [sum(map(likelihood, prompts, answers(num_beams=beams, max_new_tokens=8))) for beams in (1, 4)]
    assert scores[1] > scores[0] + 1
    model = tiny_model()
    model.generation_config.eos_token_id = list(range(40))  # many ends, so that beams of many lengths compete
    short, long = (
        sum(map(len, answers(model, num_beams=4, length_penalty=penalty, max_new_tokens=40))) for penalty in (-4.0, 4.0)
    )
    assert short < long


def test_repetition_is_penalised() -> None:
    assert min(len(set(row)) / len(row) for row in answers(max_new_tokens=40)) < 0.9
    free = answers(max_new_tokens=40, repetition_penalty=1e4)
    assert all(len(set(row)) == len(row) for row in free)


def test_lengths() -> None:
    prompts = encoded()
    assert {len(row) for row in answers(max_new_tokens=7)} == {7}
    rows = answers(max_new_tokens=None, max_length=40)
    assert [len(row) + len(prompt) for row, prompt in zip(rows, prompts, strict=True)] == [40] * len(prompts)
    whole = answers(max_new_tokens=40)
    assert all(long[: len(row)] == row for row, long in zip(rows, whole, strict=True))
    assert answers(max_new_tokens=7, max_length=8) == answers(max_new_tokens=7)
    with pytest.raises(ConfigError, match="leaves no room"):
        answers(max_new_tokens=None, max_length=8)


def test_special_tokens_stay_when_asked() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:4] *= 3  # special tokens become likely
    plain, special = (
        generate(model, tiny_tokenizer(), PROMPTS, max_new_tokens=30, skip_special_tokens=skip)
        for skip in (True, False)
    )
    assert "<|" in "".join(special)
    assert "<|" not in "".join(plain)


def test_only_what_acts_is_set_and_the_rest_is_told() -> None:
    assert generation_settings(plan_of()) == {
        "max_new_tokens": 1024, "do_sample": True, "num_beams": 1, "repetition_penalty": 1.0,
        "temperature": 0.95, "top_p": 0.7, "top_k": 50,
    }  # fmt: skip
    greedy = plan_of(do_sample=False, temperature=0.5, length_penalty=2.0, max_length=9, max_new_tokens=8)
    settings = generation_settings(greedy)
    assert settings == {"max_new_tokens": 8, "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    told = idle_generation_keys(greedy)
    assert [note.what.split()[0] for note in told] == ["temperature", "length_penalty", "max_length"]


def test_the_models_own_settings_for_drawing_do_not_act_greedily() -> None:
    model = tiny_model()
    model.generation_config.update(do_sample=True, temperature=2.0, top_k=3, top_p=0.4)
    assert answers(model) == answers()
