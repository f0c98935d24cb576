"""Tiny random language models of every common architecture, and a real tokenizer to go with them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCABULARY: Final = 384
"""256 bytes, 4 special tokens and the merges; models and tokenizer agree on it."""

SPECIAL_TOKENS: Final = ("<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")  # the last as Qwen2Tokenizer wants it
BOS, TURN, EOS, PAD = SPECIAL_TOKENS

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CORPUS: Final = (
    "system user assistant",
    "The quick brown fox jumps over the lazy dog. A model learns from the text that it is given.",
    "Who are you? I am a small model, made for the tests of a training framework.",
    "What is the capital of France? The capital of France is Paris. And of Italy? Rome.",
    "One two three four five six seven eight nine ten. Question and answer, instruction and response.",
    '{"messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hello"}]}',
)

_SOFT_CAPPED: Final = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-sliding": ("mistral", {"sliding_window": 16}),
    "gemma2": ("gemma2", _SOFT_CAPPED),
    "gemma3": ("gemma3_text", _SOFT_CAPPED),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
}
"""Name → transformers' model type and what its configuration has besides the common sizes."""


def tiny_model(arch: str = "llama", *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A random causal language model: 2 layers, hidden size 64, 4 heads (2 for keys), 384 tokens, fp32, on the CPU.

    Weights are drawn wide enough (standard deviation 0.1) that a wrong mask or position shows in the logits.

    Args:
        arch: a key of :data:`ARCHITECTURES`.
        seed: of the weights; the global random state is left as it was.
        **config: fields of the configuration to set otherwise, e.g. ``num_hidden_layers=4``.

    Raises:
        KeyError: no such architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, particular = ARCHITECTURES[arch]
    tokens = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
    }
    settings = AutoConfig.for_model(model_type, **{**sizes, **tokens, **particular, **config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(settings, dtype=torch.float32)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 384 tokens with bos, eos and pad, and a ChatML template with a generation prompt.

    It encodes any text without loss. ``<|im_end|>`` is the end of a turn and of the text. Each call gives its own copy.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _byte_level_bpe() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained_bpe())


@cache
def _trained_bpe() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    text: str = tokenizer.to_str()
    return text


def save_tiny_model(
    folder: Path, arch: str = "llama", *, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any
) -> Path:
    """Write a tiny model and tokenizer into ``folder`` in the Hugging Face layout, for ``model_name_or_path``.

    Args:
        folder: made when missing.
        arch: a key of :data:`ARCHITECTURES`.
        tokenizer: another than :func:`tiny_tokenizer`.
        **options: ``seed`` and configuration, as for :func:`tiny_model`.

    Returns:
        ``folder``.
    """
    tiny_model(arch, **options).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder
