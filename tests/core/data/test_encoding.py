"""Encoding word by word must give the ids of encoding whole, whatever the text, or not be used."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ft.data import encode_batch, encoding
from ft.data.encoding import Encoder, falls_into_words

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SLASHES = LLAMA3.replace(r"]+[\r\n]*|", r"]+[\r\n/]*|")  # as the newer patterns of OpenAI
TWO_WORDS = r"\p{L}+ \p{L}+|\s+|\S"
LOOKS_BACK = r"(?<=a) \p{L}+|\p{L}+|\s|\S"


def split(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


EXACT = {"gpt-2": GPT2, "digits": DIGITS, "llama 3": split(LLAMA3), "slashes": split(SLASHES)}
OTHER = {"two words": split(TWO_WORDS), "looks back": split(LOOKS_BACK), "prefix": pre_tokenizers.ByteLevel(True)}

PARTS = (
    *(
        "a",
        "b",
        "the",
        "The",
        "don't",
        "I'M",
        "1",
        "12345",
        "é",
        "日本",
        "e\u0301",
        "🙂",
        "\u200b",
        "x.",
        "(y)",
        "//",
        "_",
    ),
    *(" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\x1c", "\u180e"),
    *("<|end|>", "<|end|>", "<|start|>user\n", ".\n", "...\n\n", "<|", "|>"),
)


def texts(number, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices(PARTS, k=draw.randrange(40))) for _ in range(number)]


def trained(pre_tokenizer, added=("<|end|>", "<|start|>", "<|start|>user", "b"), **options):
    """A tokenizer whose merges go as far as its splitting lets them."""
    backend = Tokenizer(models.BPE(**options))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts(300, seed=1), trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken(each, normalized=each == "b") for each in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def whole(tokenizer, given):
    return [each.ids for each in encode_batch(tokenizer, given, offsets=False)]


@pytest.mark.parametrize("name", [*EXACT, *OTHER])
def test_the_ids_are_those_of_the_whole_text(name, monkeypatch):
    monkeypatch.setattr(encoding, "KEPT", 100)  # forgets now and then
    monkeypatch.setattr(encoding, "LONGEST", 8)
    tokenizer = trained({**EXACT, **OTHER}[name])
    encode = Encoder(tokenizer)
    assert falls_into_words(tokenizer) == (name in EXACT)
    for seed in range(2, 12):
        given = texts(200, seed)
        assert [ids.tolist() for ids in encode(given)] == whole(tokenizer, given)


def test_a_tokenizer_that_goes_over_spaces_would_be_wrong_in_pieces():
    tokenizer = trained(OTHER["two words"])
    given = texts(200)
    assert [ids.tolist() for ids in Encoder(tokenizer)._in_pieces(given)] != whole(tokenizer, given)


@pytest.mark.parametrize("added", ["<| end |>", " <|end|>", "<|end|> "])
def test_special_tokens_with_spaces_are_encoded_whole(added):
    assert not falls_into_words(trained(GPT2, (added,)))


def test_special_tokens_of_several_spaces_are_no_hindrance():
    tokenizer = trained(GPT2, ("  ", "<|end|>", "\n "))
    given = texts(1000)
    assert falls_into_words(tokenizer)
    assert [ids.tolist() for ids in Encoder(tokenizer)(given)] == whole(tokenizer, given)


def test_merges_at_random_are_never_remembered():
    assert not falls_into_words(trained(GPT2, dropout=0.5))


def test_a_text_that_is_changed_first_is_encoded_whole():
    tokenizer = trained(GPT2)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    assert not falls_into_words(tokenizer)


def test_what_the_first_texts_contradict_is_not_used(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "falls_into_words", lambda _: True)
    tokenizer = trained(OTHER["two words"], ("<|end|>",))
    given = texts(200)
    assert [ids.tolist() for ids in Encoder(tokenizer)(given)] == whole(tokenizer, given)


def test_each_word_is_encoded_once(tokenizer, monkeypatch):
    encode = Encoder(tokenizer)
    assert list(encode([])) == []
    encode(["one two", "two one"])
    asked = []
    monkeypatch.setattr(
        encoding, "encode_batch", lambda _, given, **how: asked.append(given) or encode_batch(_, given, **how)
    )
    assert [ids.tolist() for ids in encode(["one two", "one three two"])] == whole(
        tokenizer, ["one two", "one three two"]
    )
    assert asked == [[" three"]]
