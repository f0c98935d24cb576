"""What a conversation may hold, in each of the three shapes of supervised data: system, history, tools, calls."""

import pytest

from ft_hookspecs import Message

S, Q, R = Message("system", "S"), Message("user", "Q"), Message("assistant", "R")
HISTORY = (Message("user", "a"), Message("assistant", "b"))
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLS = tuple({"type": "function", "function": {"name": "add", "arguments": {"x": x}}} for x in (1, 2))


def human(*turns):
    return {"conversations": [{"from": role, "value": content} for role, content in turns]}


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


HUMAN, GPT, USER, ASSISTANT = ("human", "Q"), ("gpt", "R"), ("user", "Q"), ("assistant", "R")
WRITTEN = '{"name": "add", "arguments": {"x": 1}}'
BOTH = '[{"name": "add", "arguments": {"x": 1}}, {"name": "add", "arguments": {"x": 2}}]'
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"x": 1}'}}]}
CALLING_TWICE = {"role": "assistant", "tool_calls": [call["function"] for call in CALLS]}

ROWS = {
    "alpaca": {
        "plain": {"instruction": "Q", "output": "R"},
        "system": {"instruction": "Q", "output": "R", "system": "S"},
        "history": {"instruction": "Q", "output": "R", "history": [["a", "b"]]},
        "history as text": {"instruction": "Q", "output": "R", "history": '[["a", "b"]]'},
        "tools": {"instruction": "Q", "output": "R", "tools": [TOOL]},
        "tools as text": {
            "instruction": "Q",
            "output": "R",
            "tools": '[{"name": "add", "parameters": {"type": "object"}}]',
        },
    },
    "sharegpt": {
        "plain": human(HUMAN, GPT),
        "system": human(("system", "S"), HUMAN, GPT),
        "system in a column": {**human(HUMAN, GPT), "system": "S"},
        "history": human(("human", "a"), ("gpt", "b"), HUMAN, GPT),
        "tools": {**human(HUMAN, GPT), "tools": [TOOL]},
        "tools as text": {**human(HUMAN, GPT), "tools": '[{"name": "add", "parameters": {"type": "object"}}]'},
        "call": human(HUMAN, ("function_call", WRITTEN), ("observation", "2"), GPT),
        "calls": human(HUMAN, ("function_call", BOTH), ("observation", "2"), ("observation", "2"), GPT),
    },
    "openai": {
        "plain": chat(USER, ASSISTANT),
        "system": chat(("system", "S"), USER, ASSISTANT),
        "system in a column": {**chat(USER, ASSISTANT), "system": "S"},
        "developer": chat(("developer", "S"), USER, ASSISTANT),
        "history": chat(("user", "a"), ("assistant", "b"), USER, ASSISTANT),
        "tools": {**chat(USER, ASSISTANT), "tools": [TOOL]},
        "tools as text": {**chat(USER, ASSISTANT), "tools": '[{"name": "add", "parameters": {"type": "object"}}]'},
        "call": {"messages": [*chat(USER)["messages"], CALLING, *chat(("tool", "2"), ASSISTANT)["messages"]]},
        "calls": {
            "messages": [
                *chat(USER)["messages"],
                CALLING_TWICE,
                *chat(("tool", "2"), ("tool", "2"), ASSISTANT)["messages"],
            ]
        },
    },
}
CALLED = Message("assistant", "", CALLS[:1])
RESULT = Message("tool", "2")
EXPECTED = {
    "plain": (Q, R),
    "system": (S, Q, R),
    "history": (*HISTORY, Q, R),
    "tools": (Q, R),
    "call": (Q, CALLED, RESULT, R),
    "calls": (Q, Message("assistant", "", CALLS), RESULT, RESULT, R),
}
ALSO = {"history as text": "history", "tools as text": "tools", "system in a column": "system", "developer": "system"}
CASES = [(shape, feature) for shape, rows in ROWS.items() for feature in rows]


@pytest.mark.parametrize(("shape", "feature"), CASES)
def test_features(load, shape, feature):
    [example] = load([ROWS[shape][feature]])
    assert example.messages == EXPECTED[ALSO.get(feature, feature)]
    assert example.tools == ((TOOL,) if feature.startswith("tools") else ())
