"""Pairs, judged answers and prompts in the shapes of alpaca, sharegpt, openai and TRL, declared or not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft.errors import DataError
from ft_hookspecs import DatasetSource, Example, Message, Row
from ft_plugins.data import alpaca, fields, openai, sharegpt, trl

S, Q, R, W = Message("system", "S"), Message("user", "Q"), Message("assistant", "R"), Message("assistant", "W")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def say(role, content, *, sharegpt=False):
    names = {"user": "human", "assistant": "gpt"}
    return {"from": names.get(role, role), "value": content} if sharegpt else {"role": role, "content": content}


def human(*turns):
    return [say(role, content, sharegpt=True) for role, content in turns]


def chat(*turns):
    return [say(role, content) for role, content in turns]


ASKED, GOOD, BAD = ("user", "Q"), ("assistant", "R"), ("assistant", "W")
ANSWERS = {"chosen": "R", "rejected": "W"}
PAIRS = {
    "alpaca": {"instruction": "Q", **ANSWERS},
    "sharegpt": {"conversations": human(ASKED), "chosen": human(GOOD)[0], "rejected": human(BAD)[0]},
    "sharegpt, lists": {"conversations": human(ASKED), "chosen": human(GOOD), "rejected": human(BAD)},
    "sharegpt, texts": {"conversations": human(ASKED), **ANSWERS},
    "openai": {"messages": chat(ASKED), "chosen": chat(GOOD)[0], "rejected": chat(BAD)[0]},
    "openai, lists": {"messages": chat(ASKED), "chosen": chat(GOOD), "rejected": chat(BAD)},
    "trl, texts": {"prompt": "Q", **ANSWERS},
    "trl, lists": {"prompt": chat(ASKED), "chosen": chat(GOOD), "rejected": chat(BAD)},
    "trl, implicit": {"chosen": chat(ASKED, GOOD), "rejected": chat(ASKED, BAD)},
    "trl, implicit beside a text": {"prompt": "Q", "chosen": chat(ASKED, GOOD), "rejected": chat(ASKED, BAD)},
}


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_pairs(load, row, declared, system):
    columns = {"messages": "messages"} if "messages" in row else {}
    formatting = {"sharegpt": "conversations", "openai": "messages", "alpaca": "instruction"}
    name = next((name for name, column in formatting.items() if column in row), "trl")
    entry = {"ranking": True, "formatting": name, "columns": columns} if declared else {}
    [example] = load([{**row, "system": "S"} if system else row], **entry)
    assert example.messages == ((S, Q) if system else (Q,))
    assert (example.chosen, example.rejected) == ((R,), (W,))


JUDGED = {
    "alpaca": ({"instruction": "Q", "output": "R", "kto_tag": True}, {}),
    "alpaca, named": ({"instruction": "Q", "output": "R", "ok": True}, {"columns": {"kto_tag": "ok"}}),
    "sharegpt": ({"conversations": human(ASKED, GOOD), "kto_tag": True}, {}),
    "openai": ({"messages": chat(ASKED, GOOD), "kto_tag": True}, {}),
    "openai, named": (
        {"messages": chat(ASKED, GOOD), "label": True},
        {"formatting": "openai", "columns": {"kto_tag": "label"}},
    ),
    "trl, texts": ({"prompt": "Q", "completion": "R", "label": True}, {}),
    "trl, lists": ({"prompt": chat(ASKED), "completion": chat(GOOD), "label": True}, {}),
}


@pytest.mark.parametrize(("row", "entry"), JUDGED.values(), ids=JUDGED)
def test_judged_answers(load, row, entry):
    tag = next(key for key, value in row.items() if value is True)
    good, bad = load([row, {**row, tag: False}], **entry)
    assert (good.messages, good.desirable, bad.desirable) == ((Q, R), True, False)


@pytest.mark.parametrize(("row", "entry"), JUDGED.values(), ids=JUDGED)
def test_a_judgement_that_the_first_row_has_not_counts(load, row, entry):
    """A bad answer must not pass for one that nobody judged; a column that is named must be there."""
    tag = next(key for key, value in row.items() if value is True)
    first = {key: value for key, value in row.items() if key != tag}
    if entry:
        with pytest.raises(DataError, match=f"no column '{tag}'"):
            load([first, row], **entry)
    else:
        assert [example.desirable for example in load([first, {**row, tag: False}])] == [None, False]


def test_answers_without_a_judgement_and_prompts_alone(load):
    [text] = load([{"prompt": "Q", "completion": "R"}])
    [listed] = load([{"prompt": chat(("system", "S"), ASKED), "completion": chat(GOOD), "tools": [TOOL]}])
    assert (text.messages, text.desirable) == ((Q, R), None)
    assert (listed.messages, listed.tools) == ((S, Q, R), (TOOL,))
    [asked] = load([{"prompt": "Q"}])
    assert (asked.messages, asked.chosen) == ((Q,), ())
    [asked] = load([{"prompt": chat(ASKED, GOOD, ASKED), "source": "web"}], formatting="trl")
    assert asked.messages == (Q, R, Q)


def test_answers_may_call_tools(load):
    answer = [
        {"role": "assistant", "tool_calls": [CALL]},
        *chat(("tool", "2"), ("assistant", "Two.")),
    ]
    row = {"prompt": chat(ASKED), "chosen": answer, "rejected": chat(BAD), "tools": [TOOL]}
    [example] = load([row])
    assert [message.role for message in example.chosen] == ["assistant", "tool", "assistant"]
    assert example.chosen[0].tool_calls == (CALL,)
    whole = {"chosen": chat(ASKED) + answer, "rejected": [*chat(ASKED), *answer[:2], *chat(BAD)], "tools": [TOOL]}
    [example] = load([whole])
    assert [message.role for message in example.messages] == ["user", "assistant", "tool"]
    assert (example.chosen[0].content, example.rejected[0].content) == ("Two.", "W")


def test_an_implicit_prompt_ends_before_the_answers(load):
    longer = {"chosen": chat(ASKED, GOOD, ASKED, GOOD), "rejected": chat(ASKED, GOOD)}
    [example] = load([longer])
    assert (example.messages, len(example.chosen), len(example.rejected)) == ((Q,), 3, 1)
    same = {"chosen": chat(ASKED, GOOD), "rejected": chat(ASKED, GOOD)}
    [example] = load([same])  # whether equal sides are of use is the stage's to say
    assert (example.messages, example.chosen, example.rejected) == ((Q,), (R,), (R,))


def test_an_answer_beside_a_pair_stays_an_answer_unless_ranking_is_declared(load):
    row = {"instruction": "Q", "output": "R", "chosen": "R", "rejected": "W"}
    assert load([row])[0].messages == (Q, R)
    assert load([row], ranking=True)[0].rejected == (W,)
    row = {"messages": chat(ASKED, GOOD), "chosen": chat(GOOD), "rejected": chat(BAD)}
    assert load([row])[0].messages == (Q, R)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("prompt", "chosen", "rejected"), "trl"),
        (("chosen", "rejected", "score_chosen"), "trl"),
        (("prompt", "completion"), "trl"),
        (("prompt", "completion", "label"), "trl"),
        (("prompt",), "trl"),
        (("prompt", "tools"), "trl"),
        (("prompt", "answer"), ""),
        (("prompt", "text"), "text"),
        (("text", "chosen", "rejected"), ""),
        (("instruction", "chosen", "rejected"), "alpaca"),
        (("messages", "chosen", "rejected", "prompt"), "openai"),
    ],
)
def test_detection(columns, found):
    assert fields.detect(DatasetSource("mine", "/x"), columns) == found


def test_columns_that_are_named_tell_a_pair(load):
    [example] = load(
        [{"q": "Q", "good": "R", "bad": "W"}], columns={"prompt": "q", "chosen": "good", "rejected": "bad"}
    )
    assert (example.messages, example.chosen, example.rejected) == ((Q,), (R,), (W,))
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    [example] = load([{"q": chat(ASKED), "good": chat(GOOD), "bad": "W"}], columns=columns, formatting="trl")
    assert example.chosen == (R,)


BAD_ROWS = [
    ("rejected missing", {"prompt": "Q", "chosen": "R"}, "no column 'rejected'"),
    ("rejected null", {"prompt": "Q", "chosen": "R", "rejected": None}, "'rejected' is null"),
    ("rejected empty", {"prompt": "Q", "chosen": "R", "rejected": ""}, "empty target: 'rejected'"),
    ("no prompt", {"chosen": "R", "rejected": "W"}, "no column 'prompt'"),
    ("empty prompt", {"prompt": " ", "chosen": "R", "rejected": "W"}, "empty prompt: 'prompt'"),
    ("prompt answered", {"prompt": chat(ASKED, GOOD), "chosen": "R", "rejected": "W"}, "ends with a message from the"),
    ("half", {"chosen": chat(ASKED, GOOD), "rejected": chat(BAD)}, "the other an answer"),
    ("nothing shared", {"chosen": chat(ASKED, GOOD), "rejected": chat(("user", "X"), BAD)}, "no common beginning"),
    ("unanswered", {"chosen": chat(ASKED, GOOD), "rejected": chat(ASKED)}, "ends with a message from the user"),
    (
        "tool first",
        {"prompt": "Q", "chosen": [*chat(GOOD), *chat(GOOD)], "rejected": "W"},
        "after another assistant message",
    ),
    ("label", {"prompt": "Q", "completion": "R", "label": "maybe"}, "true or false"),
    ("completion", {"prompt": "Q", "completion": chat(ASKED), "label": True}, "'completion' is not an answer"),
    ("prompt number", {"prompt": 3}, "'prompt' is a number"),
    ("NUL", {"prompt": "Q\0"}, "'prompt' holds a NUL character"),
]


@pytest.mark.parametrize(("row", "said"), [pytest.param(*case[1:], id=case[0]) for case in BAD_ROWS])
def test_a_bad_row_is_told_with_its_place(load, row, said):
    with pytest.raises(DataError) as caught:
        load("\n" + json.dumps(row) + "\n", "rows.jsonl", formatting="trl")
    assert said in str(caught.value)
    assert caught.value.where.endswith("rows.jsonl:2")


# ---- mutations ----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\0", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=6,
)
MODULES = {"alpaca": alpaca, "sharegpt": sharegpt, "openai": openai, "trl": trl}
ROWS = [
    *((name.partition(",")[0], row) for name, row in PAIRS.items()),
    *((name.partition(",")[0], row) for name, (row, _) in JUDGED.items()),
    ("trl", {"prompt": "Q"}),
]


def places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), ranking=st.booleans(), which=st.sampled_from(ROWS))
def test_mutated_rows_give_examples_or_data_errors_with_their_place(data, ranking, which):
    name, row = which
    changed = json.loads(json.dumps(row))
    *above, last = data.draw(st.sampled_from([place for place in places(row) if place]))
    inner = changed
    for key in above:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = data.draw(VALUES)
    source = DatasetSource("mine", "/x", formatting=name, ranking=ranking)
    try:
        example = MODULES[name].ft_read_format(source, tuple(row))(Row(changed, "f:1"))
    except DataError as error:
        assert error.where == "f:1"  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(example, Example)
        assert example.messages
        assert bool(example.chosen) == bool(example.rejected)
