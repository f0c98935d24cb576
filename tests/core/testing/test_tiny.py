"""Tiny models and the tokenizer: offline, the same each time, and good enough that a mistake shows."""

import subprocess
import sys
import time

import pytest
import torch

from ft.testing import ARCHITECTURES, save_tiny_model, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 44)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("arch", ARCHITECTURES)
class TestModel:
    def test_it_is_small_deterministic_and_leaves_the_random_state(self, arch):
        state = torch.random.get_rng_state()
        model = tiny_model(arch)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(logits(model), logits(tiny_model(arch)))
        assert not torch.equal(logits(model), logits(tiny_model(arch, seed=1)))
        assert model.config.vocab_size <= 512
        assert model.config.hidden_size == 64
        assert model.config.num_hidden_layers == 2
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert sum(parameter.numel() for parameter in model.parameters()) < 150_000

    def test_an_earlier_token_matters_and_a_later_one_does_not(self, arch):
        model, changed = tiny_model(arch), IDS.clone()
        changed[0, 20] = 300
        with torch.no_grad():
            difference = (model(input_ids=changed).logits - logits(model)).abs().amax(-1)[0]
        assert difference[:20].max() == 0
        assert difference[21] > 1e-3

    def test_it_is_saved_and_loaded_as_it_is(self, arch, tmp_path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "model", arch))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        text = "The quick 12 brown\n\nföx <|im_end|>"
        assert torch.equal(logits(model), logits(tiny_model(arch)))
        assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
        assert len(tokenizer) == model.config.vocab_size
        assert tokenizer.chat_template == tiny_tokenizer().chat_template


def test_the_sliding_window_of_mistral_acts():
    changed = IDS.clone()
    changed[0, 0] = 300
    for arch, forgets in (("mistral", False), ("mistral-sliding", True)):
        model = tiny_model(arch, num_hidden_layers=1)
        with torch.no_grad():
            difference = (model(input_ids=changed).logits - logits(model))[0, 20:].abs().max()
        assert (difference == 0) == forgets


def test_configuration_can_be_said():
    assert tiny_model("llama", num_hidden_layers=1, tie_word_embeddings=True).config.num_hidden_layers == 1


def test_a_model_takes_milliseconds():
    tiny_model()
    begun = time.process_time()
    tiny_model()
    assert time.process_time() - begun < 0.25


class TestTokenizer:
    @pytest.mark.parametrize("text", ["Who are you?", "  spaces \n\n\tand tabs", "你好 🙂", "\x00\x7f", ""])
    def test_any_text_comes_back(self, text):
        tokenizer = tiny_tokenizer()
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def test_it_has_384_tokens_and_the_special_ones(self):
        tokenizer = tiny_tokenizer()
        assert len(tokenizer) == 384
        assert (tokenizer.bos_token_id, tokenizer.eos_token, tokenizer.pad_token_id) == (0, "<|im_end|>", 3)
        assert len({tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}) == 3
        assert len(tokenizer("the capital of France")["input_ids"]) < len("the capital of France")

    def test_the_chat_template_is_stable_under_a_prefix(self):
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        render = tiny_tokenizer().apply_chat_template
        prompt = render(messages[:1], tokenize=False, add_generation_prompt=True)
        assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        assert render(messages, tokenize=False) == prompt + "Hi<|im_end|>\n"

    def test_each_call_gives_its_own(self):
        tiny_tokenizer().add_tokens(["<new>"])
        assert len(tiny_tokenizer()) == 384


def test_importing_the_kit_imports_nothing_heavy():
    code = "import sys, ft.testing; print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
