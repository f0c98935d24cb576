"""Reading YAML and JSON files: values, lines, spelling, and everything that can be wrong with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ft.config import gather
from ft.config.scalars import parse_scalar
from ft.config.source import read_file
from ft.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, name: str = "c.yaml") -> dict[str, object]:
    return {key: given.value for key, given in read_file(write(folder, text, name))}


def refusal(folder: Path, text: str, name: str = "c.yaml") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_file(write(folder, text, name))
    return caught.value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4), ("5e-5", 5e-5), ("1E3", 1000.0), ("1.0E+3", 1000.0), (".5", 0.5), ("7.", 7.0),
        ("8", 8), ("-1", -1), ("+3", 3), ("007", 7), ("0o17", 15), ("0xff", 255),
        ("true", True), ("True", True), ("TRUE", True), ("False", False),
        ("null", None), ("~", None), ("", None), ("None", "None"),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"),
        ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), ("1e", "1e"), ("8x", "8x"), ("e5", "e5"),
        (".inf", float("inf")), ("-.inf", float("-inf")), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(word: str, value: object) -> None:
    assert parse_scalar(word) == value
    assert type(parse_scalar(word)) is type(value)


def test_yaml_values_keep_their_shape(tmp_path: Path) -> None:
    values = read(
        tmp_path,
        "rate: 1e-4  # a comment\nno: no\nquoted: '8'\nlist: [a, 1, true]\nblock:\n- x\n- 2\n"
        "fsdp_config: {min_num_params: 1e8, nested: {deep: [1]}}\nempty:\ntext: |\n  two\n  lines\ntagged: !!str 8\n",
    )
    assert values == {
        "rate": 1e-4,
        "no": "no",
        "quoted": "8",
        "list": ["a", 1, True],
        "block": ["x", 2],
        "fsdp_config": {"min_num_params": 1e8, "nested": {"deep": [1]}},
        "empty": None,
        "text": "two\nlines\n",
        "tagged": "8",
    }


def test_json_values_and_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": 1e-4,\n\t"b": {"c": [1, "}"]},\n\n"d\\u00e9" : "\\ud83d\\ude00"\n}\n', "c.json")
    given = dict(read_file(path))
    assert {key: each.value for key, each in given.items()} == {"a": 1e-4, "b": {"c": [1, "}"]}, "dé": "😀"}
    assert [str(each.source) for each in given.values()] == [f"{path}:1", f"{path}:2", f"{path}:4"]
    assert given["a"].text == "1e-4"


def test_yaml_lines_and_spelling(tmp_path: Path) -> None:
    path = write(tmp_path, "# head\n\na: 1.10\nb:\n  - x\nc: '2'\n")
    given = dict(read_file(path))
    assert [str(each.source) for each in given.values()] == [f"{path}:{line}" for line in (3, 4, 6)]
    assert [each.text for each in given.values()] == ["1.10", None, None]
    assert given["a"].source.kind == "file"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffa: 1\n") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "name", "what", "where"),
    [
        ("a: [1, 2\nb: 3\n", "c.yaml", "malformed YAML", "c.yaml:2:"),
        ("a: 1\n\tb: 2\n", "c.yaml", "malformed YAML", "c.yaml:2:1"),
        ("a: 'x\n", "c.yml", "malformed YAML", "c.yml:2:1"),
        ("a: \x00\n", "c.yaml", "malformed YAML", "c.yaml"),
        ('{"a": 1,}\n', "c.json", "malformed JSON", "c.json:1:9"),
        ('{"a": 1\n"b": 2}', "c.json", "malformed JSON", "c.json:2:1"),
        ("- a\n- b\n", "c.yaml", "not a mapping", "c.yaml:1"),
        ("just words\n", "c.yaml", "not a mapping", "c.yaml:1"),
        ("[1]", "c.json", "not a mapping", "c.json:1"),
        ("# only a comment\n", "c.yaml", "has no keys", "c.yaml"),
        ("", "c.json", "has no keys", "c.json"),
        ("{}", "c.json", "has no keys", "c.json"),
        ("a: 1\n---\nb: 2\n", "c.yaml", "several YAML documents", "c.yaml:2"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "c.yaml", "tag", "c.yaml:2"),
        ("a: !mine 1\n", "c.yaml", "tag !mine", "c.yaml:1"),
        ("a: &x 1\nb: *x\n", "c.yaml", "anchors", "c.yaml:1"),
        ("? [a]\n: 1\n", "c.yaml", "not a plain word", "c.yaml:1"),
        ("a:\n  b: 1\n  b: 2\n", "c.yaml", "'b' is given twice", "c.yaml:3"),
        ('{"x": 1,\n"a": {"b": 1, "b": 2}}', "c.json", "'b' is given twice", "c.json:2"),
        ("a: 1\n", "c.txt", "neither YAML nor JSON", "c.txt"),
        ("a: " + "[" * 5000, "c.yaml", "nests too deeply", "c.yaml:1"),
        ('{"a": ' + "[" * 100000, "c.json", "nests too deeply", "c.json"),
        ('{"a": ' + "9" * 5000 + "}", "c.json", "malformed JSON", "c.json"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path: Path, text: str, name: str, what: str, where: str
) -> None:
    error = refusal(tmp_path, text, name)
    assert what in str(error)
    assert error.where.startswith(str(tmp_path / where))
    assert error.exit_code == 2
    assert error.remedy or error.why


def test_missing_folder_and_binary_files(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    for name, what in [("none.yaml", "no such"), ("folder.yaml", "folder"), ("latin.yaml", "not UTF-8")]:
        with pytest.raises(ConfigError, match=what) as caught:
            read_file(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize(("text", "name"), [("a: 1\nb: 2\na: 3\n", "c.yaml"), ('{"a": 1,\n"b": 2,\n"a": 3}', "c.json")])
def test_a_repeated_key_is_a_problem_with_both_lines(tmp_path: Path, text: str, name: str) -> None:
    path = write(tmp_path, text, name)
    (problem,) = gather(path, [], {}).problems
    assert problem.where == f"{path}:3"
    assert f"{path}:1" in problem.why
