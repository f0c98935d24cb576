"""Files as people have them: each is read, or told with its place. The row after a bad one is read all the same."""

import json

import pytest

from ft.errors import DataError
from ft_hookspecs import DataCounts

GOOD = {"instruction": "Q", "output": "R"}
LINE = json.dumps(GOOD)
TWICE = '{"instruction": "Q", "instruction": "P", "output": "R"}'
NESTED = '{"messages": [{"role": "user", "role": "tool", "content": "Q"}]}'

READ = {
    "BOM, lines": (f"\ufeff{LINE}\n{LINE}\n", "rows.jsonl", 2),
    "BOM, array": (f"\ufeff[{LINE}]", "rows.json", 1),
    "BOM, csv": ("\ufeffinstruction,output\nQ,R\n", "rows.csv", 1),
    "carriage returns": (f"{LINE}\r\n\r\n{LINE}\r\n", "rows.jsonl", 2),
    "a hundred blank lines first": ("\n" * 100 + LINE, "rows.jsonl", 1),
    "no line break at the end": (f"{LINE}\n{LINE}", "rows.jsonl", 2),
    "a line of a million characters": (json.dumps({**GOOD, "output": "word " * 200_000}), "rows.jsonl", 1),
    "a field of a million characters": (f'instruction,output\nQ,"{"word " * 200_000}"\n', "rows.csv", 1),
}


@pytest.mark.parametrize(("content", "name", "rows"), READ.values(), ids=READ)
def test_read(load, content, name, rows):
    assert len(load(content, name)) == rows


BAD = {
    "empty": ("", "rows.jsonl", "is empty", "rows.jsonl:1"),
    "empty csv": ("", "rows.csv", "is empty", "rows.csv:1"),
    "white space alone": (" \n" * 100, "rows.jsonl", "is empty", "rows.jsonl:1"),
    "empty array": ("[]", "rows.json", "no rows", "rows.json"),
    "names alone": ("instruction,output\n", "rows.csv", "no rows", "rows.csv"),
    "NUL bytes": (LINE.encode("utf-16-le") + b"\n", "rows.jsonl", "malformed JSON", "rows.jsonl:1:2"),
    "NUL bytes in a table": (b"instruction,output\nQ\0,R\n", "rows.csv", "holds a NUL character", "rows.csv:2"),
    "NUL written out": (json.dumps({**GOOD, "output": "R\0"}), "rows.jsonl", "holds a NUL character", "rows.jsonl:1"),
    "NUL in text": (b"one\ntw\0o\n", "rows.txt", "holds a NUL character", "rows.txt:2"),
    "a key twice": (f"{LINE}\n{TWICE}\n", "rows.jsonl", "the key 'instruction' is given twice", "rows.jsonl:2"),
    "a key twice in an array": (
        f"[{LINE},\n{TWICE}]",
        "rows.json",
        "the key 'instruction' is given twice",
        "rows.json:2",
    ),
    "a key twice inside": (f"\n{NESTED}", "rows.jsonl", "the key 'role' is given twice", "rows.jsonl:2"),
    "ragged, short": ("instruction,output\nQ\n", "rows.csv", "1 fields where the first line names 2", "rows.csv:2"),
    "ragged, long": ("instruction,output\nQ,R,S\n", "rows.csv", "3 fields where the first line names 2", "rows.csv:2"),
    "an open quote": ('instruction,output\nQ,"R\n', "rows.csv", "malformed table", "rows.csv:2"),
    "cut short": (LINE[:-4], "rows.jsonl", "malformed JSON", "rows.jsonl:1"),
    "an array cut short": (f"[{LINE}, {LINE}", "rows.json", "malformed JSON", "rows.json:1"),
    "a number": ("3\n", "rows.jsonl", "a row is a number", "rows.jsonl:1"),
    "deep": ("[" * 100_000, "rows.json", "malformed JSON", "rows.json:1"),
    "not UTF-8": (LINE.replace("Q", "É").encode("latin-1"), "rows.jsonl", "not valid|UTF-8", "rows.jsonl:1"),
}


@pytest.mark.parametrize(("content", "name", "said", "where"), BAD.values(), ids=BAD)
def test_told_with_its_place(load, content, name, said, where):
    given = content.encode() if isinstance(content, str) else content
    with pytest.raises(DataError, match=said) as caught:
        load(given, name)
    assert where in caught.value.where
    assert len(str(caught.value).splitlines()) <= 4
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("bad", [TWICE, "3", LINE[:-4], json.dumps({**GOOD, "output": "\0"})])
def test_a_bad_line_among_others_is_left_out_and_counted_when_asked(load, bad):
    counts = DataCounts()
    assert len(load(f"{LINE}\n{bad}\n{LINE}\n", "rows.jsonl", counts=counts, on_bad_row="skip")) == 2
    assert sum(counts.dropped.values()) == 1
