import pytest
from tests.core.data.samples import supervise

from ft.data import IGNORE, ChatTemplate, Supervisor, encode_batch
from ft.data.spans import EXPANDED, Supervision
from ft.data.tokens import cut, documents
from ft.errors import ConfigError, DataError
from ft_hookspecs import DataCounts, Example, Message

TURNS = (
    Message("system", "Be brief."),
    Message("user", "Who are you?"),
    Message("assistant", "A model. Ünïcode 🙂 too."),
    Message("user", "What is the capital?"),
    Message("assistant", "Rome."),
)
# Takes the thoughts of earlier answers away, as reasoning models' templates do.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}[thought]{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def template(tokenizer):
    return ChatTemplate(tokenizer)


@pytest.fixture
def learn(template, tokenizer):
    def learn(*messages, using=None, cutoff_len=500, **options):
        return supervise(Example("f:1", messages), using or template, tokenizer, cutoff_len=cutoff_len, **options)

    return learn


def learned(tokenizer, tokens):
    return tokenizer.decode([token for token in tokens.labels if token != IGNORE])


def test_each_answer_with_its_end_marker_is_learned_and_nothing_else(learn, tokenizer):
    [tokens] = learn(*TURNS)
    assert learned(tokenizer, tokens) == "A model. Ünïcode 🙂 too.<|im_end|>Rome.<|im_end|>"
    assert len(tokens.labels) == len(tokens.input_ids)
    assert all(
        token in (label, IGNORE) or label == IGNORE
        for token, label in zip(tokens.input_ids, tokens.labels, strict=True)
    )
    assert tokens.loss_weights is None


def test_the_prompt_is_exactly_what_inference_gives(learn, tokenizer):
    [tokens] = learn(*TURNS)
    dicts = [{"role": m.role, "content": m.content} for m in TURNS]
    for turn in (2, 4):
        prompt = tokenizer.apply_chat_template(dicts[:turn], add_generation_prompt=True, return_dict=False)
        assert tokens.input_ids[: len(prompt)] == prompt
        assert tokens.labels[len(prompt) - 1] == IGNORE
        assert tokens.labels[len(prompt)] != IGNORE
    assert tokens.input_ids == tokenizer.apply_chat_template(dicts, return_dict=False)


def test_mask_history_learns_the_last_answer(learn, tokenizer):
    assert learned(tokenizer, learn(*TURNS, mask_history=True)[0]) == "Rome.<|im_end|>"


def test_train_on_prompt_learns_every_token(learn):
    [tokens] = learn(*TURNS, train_on_prompt=True)
    assert tokens.labels == tokens.input_ids
    assert tokens.supervised == len(tokens.input_ids) - 1


def test_the_data_decides_for_each_message(learn, tokenizer):
    user, answer = Message("user", "Question", train=True), Message("assistant", "Answer", train=False)
    [tokens] = learn(user, answer, Message("user", "More"), Message("assistant", "Yes", weight=0.5))
    assert learned(tokenizer, tokens) == "<|im_start|>user\nQuestion<|im_end|>Yes<|im_end|>"
    weights = [w for w, label in zip(tokens.loss_weights, tokens.labels, strict=True) if label != IGNORE]
    assert weights == [1.0] * (tokens.supervised + 1 - weights.count(0.5)) + [0.5] * weights.count(0.5)
    assert weights.count(0.5) == len(encode_batch(tokenizer, ["Yes<|im_end|>"])[0].ids)


def test_a_template_that_forgets_gives_one_sample_an_answer(learn, tokenizer):
    counts, forgetful = DataCounts(), ChatTemplate(tokenizer, FORGETFUL)
    samples = learn(*TURNS, using=forgetful, counts=counts)
    assert [learned(tokenizer, tokens) for tokens in samples] == [
        "[thought]A model. Ünïcode 🙂 too.<|im_end|>",
        "[thought]Rome.<|im_end|>",
    ]
    assert tokenizer.decode(samples[1].input_ids).count("[thought]") == 1
    assert counts.repaired == {EXPANDED: 1}
    assert len(learn(*TURNS, using=forgetful, mask_history=True)) == 1


def test_a_template_without_a_stable_prefix_is_refused(learn, tokenizer):
    source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"does not show where message 3 begins\n  where: f:1") as caught:
        learn(*TURNS, using=ChatTemplate(tokenizer, source, name="odd"))
    assert "(odd)" in str(caught.value)


def test_a_template_without_a_generation_prompt_is_refused_unless_all_is_learned(learn, tokenizer):
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    headless = "{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"\(mine\) has no generation prompt\n  where: f:1"):
        learn(*TURNS, using=ChatTemplate(tokenizer, source, name="mine"))
    [whole] = learn(*TURNS, using=ChatTemplate(tokenizer, source), train_on_prompt=True)
    assert whole.labels == whole.input_ids
    assert learned(tokenizer, learn(*TURNS[1:3], using=ChatTemplate(tokenizer, headless))[0]) == TURNS[2].content


@pytest.mark.parametrize("what", ["described", "called"])
def test_a_template_that_leaves_out_tools_is_refused(template, tokenizer, what):
    tool = {"type": "function", "function": {"name": "weather_of", "arguments": {}}}
    answer = Message("assistant", "It rains.", tool_calls=(tool,) if what == "called" else ())
    example = Example("rows.json:7", (Message("user", "Rain?"), answer), tools=(tool,) if what == "described" else ())
    with pytest.raises(DataError, match=r"does not write the tool 'weather_of'[\s\S]*rows\.json:7"):
        supervise(example, template, tokenizer, cutoff_len=500)


def test_a_template_that_refuses_names_the_row(learn, tokenizer):
    refusing = ChatTemplate(tokenizer, "{{ raise_exception('no system messages') }}")
    with pytest.raises(DataError, match="no system messages") as caught:
        learn(*TURNS, using=refusing)
    assert caught.value.where == "f:1"
    counts = DataCounts()
    supervision = Supervision(99, on_bad_row="skip")
    assert not list(Supervisor(refusing, tokenizer, supervision)([Example("f:1", TURNS)], counts))
    assert counts.dropped == {"no system messages": 1}


@pytest.mark.parametrize(
    "source", ["{{ messages.nothing.at.all }}", "{{ ().__class__.__mro__ }}", "{{ 1 + 'a' }}", "{% if %}"]
)
def test_a_broken_or_malicious_template_is_a_data_error(learn, tokenizer, source):
    with pytest.raises(DataError, match="cannot render"):
        learn(*TURNS, using=ChatTemplate(tokenizer, source))


def test_plain_text_is_no_conversation(template, tokenizer):
    with pytest.raises(DataError, match="plain text") as caught:
        supervise(Example("f:9", text="x"), template, tokenizer, cutoff_len=9)
    assert caught.value.where == "f:9"


@pytest.mark.parametrize(
    ("row", "what"),
    [({"chosen": TURNS[2:3], "rejected": TURNS[4:]}, "a pair of answers"), ({"desirable": False}, "marked bad")],
)
def test_what_is_judged_is_no_answer_to_learn(template, tokenizer, row, what):
    with pytest.raises(DataError, match=what) as caught:
        supervise(Example("f:9", TURNS[:3], **row), template, tokenizer, cutoff_len=500)
    assert caught.value.where == "f:9"
    assert caught.value.remedy


def test_an_answer_that_is_marked_good_is_learned(template, tokenizer):
    assert supervise(Example("f:9", TURNS[:3], desirable=True), template, tokenizer, cutoff_len=500)


def test_a_sample_without_anything_to_learn_is_dropped(learn):
    counts = DataCounts()
    assert learn(Message("user", "a"), Message("assistant", "b", train=False), counts=counts) == []
    assert counts.dropped == {"no token to learn": 1}
    assert (counts.tokens, counts.supervised) == (0, 0)


def test_a_token_over_a_boundary_belongs_to_where_it_begins(tokenizer):
    # The question is the first letter of a token, the answer begins with the second, and so does not own the token.
    first, second = min(
        token for token in tokenizer.get_vocab() if len(token) == 2 and token.isascii() and token.isalpha()
    )
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    [tokens] = supervise(
        Example("f:1", (Message("user", first), Message("assistant", f"{second} end"))),
        ChatTemplate(tokenizer, source), tokenizer, cutoff_len=99,
    )  # fmt: skip
    assert tokenizer.decode(tokens.input_ids[:1]) == first + second
    assert tokens.labels[0] == IGNORE
    assert tokens.labels[1:] == tokens.input_ids[1:]


def test_counts_are_of_tokens(learn):
    counts = DataCounts()
    [tokens] = learn(*TURNS, counts=counts)
    assert (counts.tokens, counts.supervised) == (len(tokens.input_ids), tokens.supervised)


def test_a_tokenizers_own_truncation_is_not_used(learn, tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=99)
    assert 20 < len(learn(*TURNS)[0].input_ids) != 99


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="offsets"):
        encode_batch(Slow(), ["x"])


def test_default_system_is_part_of_the_template(tokenizer):
    system = 'Say "hi" {{ 1 }} %}\nünï 🙂'
    template = ChatTemplate(tokenizer, default_system=system)
    rendered = template.render(TURNS[1:])
    assert rendered.startswith(f"<|im_start|>system\n{system}<|im_end|>\n")
    assert template.render(TURNS).count("system") == 1
    tokenizer.chat_template = template.text
    dicts = [{"role": m.role, "content": m.content} for m in TURNS[1:]]
    assert tokenizer.apply_chat_template(dicts, tokenize=False) == rendered


def test_blocks_hold_every_token_once(tokenizer):
    counts, texts = DataCounts(), ["one two three", "four", "five six seven eight nine"]
    made = list(cut(documents(tokenizer)(texts), 5, counts))
    joined = [token for text in texts for token in (*encode_batch(tokenizer, [text])[0].ids, tokenizer.eos_token_id)]
    assert [token for block in made for token in block.input_ids] == joined
    assert {len(block.input_ids) for block in made[:-1]} == {5}
    assert all(block.labels == block.input_ids for block in made)
    assert counts.tokens == len(joined)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="eos"):
        documents(tokenizer)
