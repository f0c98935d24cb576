import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft.errors import DataError
from ft_hookspecs import DataCounts, DatasetSource, Example, Message, Row
from ft_plugins.data import alpaca, fields, openai, sharegpt, text

U, A = Message("user", "Q"), Message("assistant", "R")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def talk(*turns, role="role", content="content"):
    return [{role: who, content: what} for who, what in turns]


class TestDetection:
    @pytest.mark.parametrize(
        ("columns", "named", "found"),
        [
            (("instruction", "input", "output"), {}, "alpaca"),
            (("instruction", "input", "output", "text"), {}, "alpaca"),
            (("instruction", "chosen", "rejected"), {}, "alpaca"),
            (("conversations", "id"), {}, "sharegpt"),
            (("messages", "text"), {}, "openai"),
            (("text", "url"), {}, "text"),
            (("messages", "conversations"), {}, ""),
            (("question", "answer"), {}, ""),
            (("question", "answer"), {"prompt": "question", "response": "answer"}, "alpaca"),
            (("body",), {"prompt": "body"}, "text"),
            (("body", "output"), {"prompt": "body"}, "alpaca"),
            (("body",), {"text": "body"}, "text"),
            (("chat",), {"messages": "chat"}, "sharegpt"),
            (("messages",), {"messages": "messages"}, "openai"),
        ],
    )
    def test_by_columns(self, columns, named, found):
        source = DatasetSource("mine", "/x", columns=named)
        assert fields.detect(source, columns) == found
        answering = [
            module.__name__.rpartition(".")[2]
            for module in (alpaca, openai, sharegpt, text)
            if module.ft_read_format(source, columns) is not None
        ]
        assert answering == ([found] if found else [])

    def test_what_is_declared_counts(self):
        source = DatasetSource("mine", "/x", formatting="openai")
        assert fields.detect(source, ("instruction", "output")) == "openai"
        assert alpaca.ft_read_format(DatasetSource("mine", "/x", formatting="other"), ("instruction", "output")) is None


class TestAlpaca:
    def test_prompt_query_system_and_history(self, load):
        rows = [
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            {"instruction": "Q", "input": None, "output": "R", "system": "S", "history": [["a", "b"], ["c", "d"]]},
        ]
        first, second = load(rows)
        assert first.messages == (Message("user", "Add.\n1 2"), Message("assistant", "3"))
        assert [m.role for m in second.messages] == ["system", *["user", "assistant"] * 3]
        assert [m.content for m in second.messages] == ["S", "a", "b", "c", "d", "Q", "R"]
        assert first.where.endswith("rows.json:2")

    def test_unnamed_columns_keep_their_defaults(self, load):
        [example] = load([{"q": "Q", "input": "more", "output": "R"}], columns={"prompt": "q"})
        assert example.messages[0].content == "Q\nmore"

    def test_pairs_and_kto(self, load):
        [pair] = load([{"instruction": "Q", "chosen": "good", "rejected": "bad"}], ranking=True)
        assert (pair.messages, pair.chosen[0].content, pair.rejected[0].content) == ((U,), "good", "bad")
        rows = [{"instruction": "Q", "output": "R", "label": label} for label in (True, False)]
        assert [e.desirable for e in load(rows, columns={"kto_tag": "label"})] == [True, False]

    def test_csv(self, load):
        [example] = load('instruction,input,output,label\nQ,"","R\nR",False\n', "a.csv", columns={"kto_tag": "label"})
        assert (example.messages[0], example.messages[1].content, example.desirable) == (U, "R\nR", False)


class TestConversations:
    def test_sharegpt(self, load):
        [example] = load([{"conversations": talk(("human", "Q"), ("gpt", "R"), role="from", content="value")}])
        assert example.messages == (U, A)
        turns = talk(("system", "S"), ("human", "Q"), ("gpt", "R"), role="from", content="value")
        [example] = load([{"conversations": turns, "system": "not this one"}])
        assert example.messages == (Message("system", "S"), U, A)
        [example] = load([{"conversations": turns[1:], "system": "S"}])
        assert example.messages[0] == Message("system", "S")

    def test_tags_replace_only_what_they_name(self, load):
        turns = talk(("user", "Q"), ("gpt", "R"), role="from", content="text")
        [example] = load(
            [{"talk": turns}], columns={"messages": "talk"}, tags={"user_tag": "user", "content_tag": "text"}
        )
        assert example.messages == (U, A)

    def test_calls_of_functions(self, load):
        call = '{"name": "add", "arguments": {"x": 1}}'
        turns = [("human", "Q"), ("function_call", call), ("observation", "2"), ("gpt", "R")]
        row = {
            "conversations": talk(*turns, role="from", content="value"),
            "tools": '[{"name": "add", "parameters": {}}]',
        }
        [example] = load([row])
        assert [m.role for m in example.messages] == ["user", "assistant", "tool", "assistant"]
        assert example.messages[1] == Message("assistant", "", (CALL,))
        assert example.tools == (TOOL,)

    def test_openai(self, load):
        called = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"x": 1}'}}],
        }
        parts = [{"type": "text", "text": "Q"}, {"type": "text", "text": "!"}]
        row = {
            "messages": [
                *talk(("developer", "S"), ("user", parts)),
                called,
                {"role": "tool", "tool_call_id": "1", "content": "2"},
                {"role": "tool", "content": "3"},
                {"role": "assistant", "content": "R", "reasoning_content": "hm"},
            ],
            "tools": [TOOL],
        }
        [example] = load([row])
        assert [m.content for m in example.messages] == ["S", "Q!", "", "2", "3", "R"]
        assert example.messages[0].role == "system"
        assert example.messages[2].tool_calls == ({"id": "1", **CALL},)
        assert example.messages[-1].reasoning == "hm"

    def test_messages_say_their_part_in_the_loss(self, load):
        turns = talk(
            ("user", "Q"), ("assistant", "R"), ("user", "Q"), ("assistant", "R"), ("user", "Q"), ("assistant", "R")
        )
        turns[1]["weight"], turns[3]["weight"], turns[4]["train"] = 0, 0.5, True
        [example] = load([{"messages": turns}])
        assert [(m.train, m.weight) for m in example.messages[1:5]] == [(False, 1), (None, 1), (None, 0.5), (True, 1)]

    def test_pairs_and_kto(self, load):
        names = {"messages": "messages", "chosen": "good", "rejected": "bad", "kto_tag": "label"}
        row = {"messages": talk(("user", "Q")), "good": talk(("assistant", "R"))[0], "bad": talk(("assistant", "S"))}
        [pair] = load([row], ranking=True, columns={**names, "kto_tag": None})
        assert (pair.messages, pair.chosen, pair.rejected[0].content) == ((U,), (A,), "S")
        row = {"messages": talk(("user", "Q"), ("assistant", "R")), "label": True}
        assert load([row], columns={"messages": "messages", "kto_tag": "label"})[0].desirable is True


class TestText:
    def test_text_and_named_columns(self, load):
        assert load([{"text": "one"}])[0].text == "one"
        assert load([{"body": "one"}], columns={"prompt": "body"})[0].text == "one"
        assert load("one\n\ntwo\n", "a.txt")[1].text == "two"


OPENAI = {"formatting": "openai"}
SHAREGPT = {"formatting": "sharegpt"}
BAD = [
    (
        "missing column",
        {"instruction": "Q", "ouput": "R"},
        {"formatting": "alpaca"},
        "no column 'output'",
        "did you mean 'ouput'?",
    ),
    ("number", {"instruction": 3, "output": "R"}, {}, "'instruction' is a number: 3", "quotes"),
    ("null", {"instruction": None, "output": "R"}, {}, "'instruction' is null", ""),
    ("list", {"instruction": ["Q"], "output": "R"}, {}, "is a list", ""),
    ("empty target", {"instruction": "Q", "output": " "}, {}, "empty target: 'output'", ""),
    ("empty prompt", {"instruction": "", "output": "R"}, {}, "empty prompt", ""),
    ("history", {"instruction": "Q", "output": "R", "history": [["a"]]}, {}, "'history' holds [['a']]", "pairs"),
    ("history number", {"instruction": "Q", "output": "R", "history": 3}, {}, "'history'", "pairs"),
    ("surrogate", {"instruction": "\ud83d", "output": "R"}, {}, "half of a character", ""),
    (
        "kto",
        {"instruction": "Q", "output": "R", "l": "yes"},
        {"columns": {"kto_tag": "l"}},
        "'l' is 'yes'",
        "true or false",
    ),
    ("no rejected", {"instruction": "Q", "chosen": "R"}, {"ranking": True}, "no column 'rejected'", ""),
    (
        "two questions",
        {"messages": talk(("user", "Q"), ("user", "Q"))},
        {},
        "message 2 is from the user, directly after another user message",
        "alternate",
    ),
    (
        "answer first",
        {"messages": talk(("assistant", "R"), ("user", "Q"))},
        {},
        "message 1 is from the assistant, at the start",
        "system or user",
    ),
    (
        "late system",
        {"messages": talk(("user", "Q"), ("system", "S"))},
        {},
        "message 2 is from the system, directly after a message from the user",
        "",
    ),
    ("tool after user", {"messages": talk(("user", "Q"), ("tool", "S"))}, {}, "message 2 is from the tool", ""),
    (
        "no answer",
        {"messages": talk(("user", "Q"), ("assistant", "R"), ("user", "Q"))},
        {},
        "ends with a message from the user",
        "",
    ),
    (
        "unknown role",
        {"messages": talk(("usr", "Q"), ("assistant", "R"))},
        {},
        "unknown role 'usr'",
        "did you mean 'user'?",
    ),
    ("role number", {"messages": talk((1, "Q"))}, {}, "unknown role 1", ""),
    (
        "no role",
        {"messages": [{"rol": "user", "content": "Q"}]},
        {},
        "messages[0] has no 'role'",
        "did you mean 'rol'?",
    ),
    ("no content", {"messages": [{"role": "user"}]}, {}, "messages[0] has no 'content'", ""),
    ("content object", {"messages": talk(("user", {"a": 1}))}, {}, "messages[0]' is an object", ""),
    ("image", {"messages": talk(("user", [{"type": "image"}]))}, {}, "not text: 'image'", "only text"),
    ("part", {"messages": talk(("user", ["Q"]))}, {}, "not text: 'Q'", ""),
    ("empty answer", {"messages": talk(("user", "Q"), ("assistant", ""))}, {}, "empty target: 'messages[1]'", ""),
    ("empty question", {"messages": talk(("user", " "), ("assistant", "R"))}, {}, "empty prompt: 'messages[0]'", ""),
    (
        "empty question before",
        {"instruction": "Q", "output": "R", "history": [["", "b"]]},
        {},
        "empty prompt: 'history'",
        "",
    ),
    *(
        (
            f"pictures of {row.keys()}",
            {**row, "images": ["a.png"]},
            {},
            "the row has images",
            "take the column images out",
        )
        for row in (
            {"instruction": "Q", "output": "R"},
            {"instruction": "Q", "chosen": "R", "rejected": "S"},
            {"messages": talk(("user", "Q"), ("assistant", "R"))},
            {"prompt": "Q", "completion": "R"},
            {"prompt": "Q", "chosen": "R", "rejected": "S"},
            {"chosen": talk(("user", "Q"), ("assistant", "R")), "rejected": talk(("user", "Q"), ("assistant", "S"))},
        )
    ),
    ("no messages", {"messages": []}, {}, "'messages' is empty", ""),
    ("text for messages", {"messages": "Q"}, {}, "not valid JSON", ""),
    ("object for messages", {"messages": {"role": "user"}}, {}, "'messages' is an object", ""),
    ("weight", {"messages": [{"role": "user", "content": "Q", "weight": -1}]}, {}, "weight: -1", ""),
    ("weight beyond fp32", {"messages": [{"role": "user", "content": "Q", "weight": 1e300}]}, {}, "weight: 1e+300", ""),
    ("weight beyond all", {"messages": [{"role": "user", "content": "Q", "weight": 10**400}]}, {}, "weight: 1000", ""),
    ("train", {"messages": [{"role": "user", "content": "Q", "train": "no"}]}, {}, "train: 'no'", ""),
    ("call", {"messages": [{"role": "assistant", "tool_calls": ["x"]}]}, {}, "calls no function: 'x'", ""),
    (
        "arguments",
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
        {},
        "not valid JSON",
        "",
    ),
    (
        "tools",
        {"messages": talk(("user", "Q"), ("assistant", "R")), "tools": "[1]"},
        {},
        "'tools' is not a list of objects",
        "",
    ),
    *(
        (
            f"arguments {given!r}",
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": given}]}]},
            {},
            "'messages[0] arguments' is",
            "an object of names",
        )
        for given in ([1], '"x"', 7, 0, False)
    ),
    *(
        (
            f"tool {given!r}",
            {"messages": talk(("user", "Q"), ("assistant", "R")), "tools": given},
            {},
            "'tools' ",
            "list of objects" if given == 0 else "a function with a name",
        )
        for given in ([{"function": None}], [{"type": "function", "function": {}}], [{"name": 5}], [{}], 0)
    ),
    (
        "function_call",
        {"conversations": talk(("human", "Q"), ("function_call", "f(x)"), role="from", content="value")},
        {},
        "not valid JSON",
        "",
    ),
    ("wrong tags", {"conversations": talk(("user", "Q"))}, SHAREGPT, "has no 'from'", "tags"),
    (
        "chosen by user",
        {"messages": talk(("user", "Q")), "chosen": talk(("user", "R")), "rejected": "S"},
        {"ranking": True},
        "'chosen' is not an answer",
        "",
    ),
    (
        "no chosen messages",
        {"messages": talk(("user", "Q")), "chosen": [], "rejected": "S"},
        {"ranking": True},
        "'chosen' is empty",
        "",
    ),
    ("no text", {"text": " "}, {}, "empty text", ""),
    ("text number", {"text": 1}, {}, "'text' is a number", ""),
]


@pytest.mark.parametrize(("row", "entry", "said", "hint"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_a_bad_row_is_told_with_its_place(load, row, entry, said, hint):
    with pytest.raises(DataError) as caught:
        load("\n" + json.dumps(row) + "\n", "rows.jsonl", **entry)
    message = str(caught.value)
    assert caught.value.where.endswith("rows.jsonl:2")
    assert said in message
    assert hint in message
    assert "on_bad_row: skip" in message
    assert len(message.splitlines()) <= 4
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"columns": {"prompts": "q"}}, "did you mean 'prompt'?"),
        ({"columns": {"images": "pictures"}}, "only text is trained on"),
        ({"columns": {"response": "outputs"}}, "did you mean 'output'?"),
        ({"formatting": "sharegpt", "tags": {"rol_tag": "x"}}, "did you mean 'role_tag'?"),
        ({"tags": {"role_tag": "x"}}, "tags of 'mine' do nothing"),
        ({"formatting": "text", "columns": {"text": "output"}, "tags": {"role_tag": "x"}}, "tags of 'mine' do nothing"),
        ({"columns": {"system": "persona"}}, "no row of the data set 'mine' has the column 'persona'"),
        ({"split": "test"}, "split: test of the data set 'mine' has no effect"),
        ({"subset": "en"}, "subset: en of the data set 'mine' has no effect"),
        ({"folder": "part"}, "folder of 'mine' has no effect"),
    ],
)
def test_a_bad_declaration_is_told_with_its_place(load, entry, said):
    with pytest.raises(DataError) as caught:
        load([{"instruction": "Q", "output": "R"}], **entry)
    assert said in str(caught.value)
    assert "dataset_info.json:1" in caught.value.where


def test_a_column_that_only_later_rows_have_may_be_named(load):
    rows = [{"instruction": "Q", "output": "R"}, {"instruction": "Q", "output": "R", "persona": "S"}]
    assert [len(example.messages) for example in load(rows, columns={"system": "persona"}, split="train")] == [2, 3]


def test_skipped_rows_are_counted_by_rule(load):
    rows = [{"instruction": "Q", "output": out} for out in ("R", "", 3, " ", "R")]
    counts = DataCounts()
    assert len(load(rows, counts=counts, on_bad_row="skip")) == 2
    assert counts.dropped == {"there is nothing to learn from an empty answer": 2, "a text is needed": 1}


GOOD = {
    "alpaca": {"instruction": "Q", "input": "", "output": "R", "history": [["a", "b"]], "system": "S"},
    "sharegpt": {"conversations": talk(("human", "Q"), ("gpt", "R"), role="from", content="value"), "tools": "[]"},
    "openai": {
        "messages": [
            *talk(("user", "Q")),
            {"role": "assistant", "tool_calls": [CALL]},
            *talk(("tool", "2"), ("assistant", "R")),
        ]
    },
    "text": {"text": "one"},
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["role", "content", "function", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(value, at=()):
    """The path of every value inside a value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def mutate(value, at, new):
    """A copy with the value at a path replaced, or its key removed when ``new`` is ``...``."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return copy


MODULES = {"alpaca": alpaca, "sharegpt": sharegpt, "openai": openai, "text": text}


@settings(max_examples=300, deadline=None)
@given(data=st.data(), ranking=st.booleans(), name=st.sampled_from(sorted(GOOD)))
def test_mutations_of_good_rows_give_examples_or_data_errors(data, ranking, name):
    row = GOOD[name]
    at = data.draw(st.sampled_from([place for place in places(row) if place]))
    changed = mutate(row, at, data.draw(st.just(...) | JSON_VALUES))
    source = DatasetSource("mine", "/x", formatting=name, ranking=ranking, columns={"kto_tag": "system"})
    try:
        example = MODULES[name].ft_read_format(source, tuple(row))(Row(changed, "f:1"))
    except DataError as error:
        assert error.where == "f:1"  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(example, Example)
        assert all(isinstance(message.content, str) for message in example.messages)
