"""The two short ways to labels, outlines and lengths of tokens, must give what rendering and offsets give."""

import pytest

from ft.data import ChatTemplate, Supervisor, encode_batch
from ft.data.boundaries import Labeller
from ft.data.spans import Rendered, Span, Supervision, label, render
from ft.errors import DataError
from ft_hookspecs import DataCounts, Example, Message

TEXTS = (
    "Who?",
    " padded \n",
    "Ünïcode 🙂 日本",
    "<think>\nhm\n</think>\n\nYes",
    "a <|im_end|> b",
    "x" * 50,
    "\n\n",
    "  ",
)
ROLES = (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant"))
TEMPLATES = (
    None,
    "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\nassistant: {% endif %}",
    "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}[last]{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
)


def conversations():
    for number, first in enumerate(TEXTS):
        for roles in ROLES:
            said = [TEXTS[(number + turn) % len(TEXTS)] if turn else first for turn in range(len(roles))]
            messages = tuple(Message(role, text) for role, text in zip(roles, said, strict=True))
            yield Example(f"f:{number}", messages)
            yield Example(f"f:{number}", (*messages[:-1], Message("assistant", said[-1], weight=0.5)))
            yield Example(f"f:{number}", (*messages[:-1], Message("assistant", said[-1], train=False), *messages[-2:]))


def slowly(example, template, tokenizer, supervision):
    samples = render(example, template, supervision, DataCounts())
    made = [label(sample, *encode_batch(tokenizer, [sample.text])) for sample in samples]
    return [tokens for tokens in made if tokens.supervised]


def outcome(make):
    try:
        return make()
    except DataError as error:
        return error.what


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("options", [{}, {"train_on_prompt": True}, {"mask_history": True}])
def test_the_short_ways_give_the_same_labels(tokenizer, source, options):
    template = ChatTemplate(tokenizer, source)
    supervision = Supervision(10_000, **options)
    supervisor = Supervisor(template, tokenizer, supervision)
    for example in conversations():
        expected = outcome(lambda: slowly(example, template, tokenizer, supervision))  # noqa: B023 - called at once
        assert outcome(lambda: list(supervisor([example], DataCounts()))) == expected, example  # noqa: B023 - as above


def test_a_conversation_is_rendered_once(tokenizer, monkeypatch):
    template = ChatTemplate(tokenizer)
    supervisor = Supervisor(template, tokenizer, Supervision(1000))
    plain = [Example("f", (Message("user", f"Who is {n}?"), Message("assistant", f"{n}.")) * 3) for n in range(9)]
    list(supervisor(plain[:1], DataCounts()))  # learns the outline
    monkeypatch.setattr(template, "render", lambda *_, **__: pytest.fail("rendered turn by turn"))
    assert len(list(supervisor(plain, DataCounts()))) == 9


def test_offsets_are_not_asked_for_unless_a_span_begins_inside_a_token(tokenizer, monkeypatch):
    text = "one two three"
    asked = []
    monkeypatch.setattr(
        "ft.data.boundaries.label", lambda sample, encoding: asked.append(sample) or label(sample, encoding)
    )
    example = Example("f", (Message("assistant", "x"),))
    for start in range(len(text)):
        sample = Rendered(example, (True,), text, (Span(start, len(text), 1.0),))
        [tokens] = Labeller(tokenizer)([sample])
        assert tokens == label(sample, *encode_batch(tokenizer, [text])), start
    assert 0 < len(asked) < len(text)
