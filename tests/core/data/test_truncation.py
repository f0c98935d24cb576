import pytest
from tests.core.data.samples import supervise

from ft.data import IGNORE, ChatTemplate, Supervision, Supervisor, encode_batch
from ft.data.truncation import share, spread
from ft_hookspecs import DataCounts, Example, Message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((3000, 2000, 1000), (600, 400)),
        ((499, 5000, 1000), (499, 501)),
        ((5000, 499, 1000), (501, 499)),
        ((10, 20, 1000), (10, 20)),
        ((1000, 1000, 1000), (500, 500)),
    ],
)
def test_the_proportional_share(given, expected):
    assert share(*given, "proportional") == expected


def test_the_other_shares():
    assert share(300, 900, 1000, "right") == (300, 700)
    assert share(1200, 900, 1000, "right") == (1000, 0)
    assert share(1200, 900, 1000, "left") == (100, 900)
    assert share(1200, 1001, 1000, "left") == (0, 0)


def test_the_longest_messages_lose_first():
    assert spread([10, 100, 50], 100) == [10, 45, 45]
    assert spread([10, 20], 99) == [10, 20]
    assert spread([], 5) == []


QUESTION = " ".join(f"q{n}" for n in range(60))
ANSWER = " ".join(f"a{n}" for n in range(60))
LONG = (Message("system", "short"), Message("user", QUESTION), Message("assistant", ANSWER))
TWO = (Message("user", "first"), Message("assistant", "one"), *LONG[1:])


@pytest.fixture
def cut(tokenizer):
    def cut(messages, cutoff_len, truncation, **options):
        counts = DataCounts()
        samples = supervise(
            Example("f:1", messages), ChatTemplate(tokenizer), tokenizer,
            cutoff_len=cutoff_len, truncation=truncation, counts=counts, **options,
        )  # fmt: skip
        texts = [tokenizer.decode(sample.input_ids) for sample in samples]
        return samples, texts[0] if texts else "", counts

    return cut


@pytest.mark.parametrize("truncation", ["proportional", "left", "right"])
@pytest.mark.parametrize("cutoff_len", [60, 117, 200, 300, 400])
@pytest.mark.parametrize("messages", [LONG, TWO])
def test_no_marker_is_cut_and_something_is_learned(cut, messages, cutoff_len, truncation):
    samples, text, counts = cut(messages, cutoff_len, truncation)
    if not samples:
        assert sum(counts.dropped.values()) == 1
        assert truncation != "proportional"
        return
    assert cutoff_len - 12 <= len(samples[0].input_ids) <= cutoff_len or text.count("<|im_start|>") < len(messages)
    assert text.count("<|im_start|>") == text.count("<|im_end|>\n")
    assert text.endswith("<|im_end|>\n")
    assert samples[0].supervised > 0
    assert (counts.truncated, counts.dropped) == (1, {})


def test_proportional_keeps_the_beginnings_of_both(cut, tokenizer):
    samples, text, _ = cut(LONG, 150, "proportional")
    assert "<|im_start|>user\nq0 q1 " in text
    assert "<|im_start|>assistant\na0 a1 " in text
    assert "system\nshort<|im_end|>" in text
    learned = tokenizer.decode([token for token in samples[0].labels if token != IGNORE])
    assert learned.startswith("a0 a1")
    assert learned.endswith("<|im_end|>")


def test_right_keeps_the_question_and_the_beginning_of_the_answer(cut):
    _, text, _ = cut(LONG, 300, "right")
    assert QUESTION in text
    assert "assistant\na0 a1" in text
    assert ANSWER not in text


def test_left_keeps_system_answer_and_the_end_of_the_question(cut):
    _, text, _ = cut(LONG, 300, "left")
    assert ANSWER in text
    assert "q59<|im_end|>" in text
    assert QUESTION not in text
    assert "system\nshort<|im_end|>" in text
    _, text, _ = cut(TWO, 300, "left")
    assert "first" not in text


def test_later_turns_without_room_go_as_a_whole(cut):
    short = (Message("user", "first"), Message("assistant", "one"))
    samples, text, _ = cut((*LONG[1:], *short), 200, "proportional")
    assert "first" not in text
    assert len(samples[0].input_ids) <= 200


def test_drop_leaves_out_and_counts(cut):
    samples, _, counts = cut(LONG, 100, "drop")
    assert samples == []
    assert counts.dropped == {"longer than cutoff_len": 1}
    assert counts.truncated == 0
    assert cut(LONG, 1000, "drop")[0]


def test_of_an_answer_so_much_is_left_as_is_reserved(tokenizer):
    """``right`` would give all of the room to the question."""
    example = Example("f:1", LONG[1:])

    def kept(reserved):
        counts = DataCounts()
        supervision = Supervision(150, "right", reserved=reserved)
        samples = list(Supervisor(ChatTemplate(tokenizer), tokenizer, supervision)([example], counts))
        return [sample.supervised for sample in samples], sum(counts.dropped.values())

    end = len(encode_batch(tokenizer, ["<|im_end|>"])[0])
    assert kept(1) == ([1 + end], 0)
    assert kept(40) == ([40 + end], 0)
    assert kept(149) == ([], 1)


def test_markers_alone_may_be_too_long(cut):
    samples, _, counts = cut(LONG, 8, "proportional")
    assert samples == []
    assert list(counts.dropped) == ["longer than cutoff_len even without most of its content"]


def test_characters_of_several_tokens_stay_whole(cut):
    emoji = (Message("user", "x"), Message("assistant", "🙂" * 60))
    for cutoff_len in range(60, 70):
        assert "\ufffd" not in cut(emoji, cutoff_len, "proportional")[1]
