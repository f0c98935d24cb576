"""Files are read as JSON objects or as nothing, and written whole or not at all."""

import json

import pytest

from ft.files import json_object, replacing


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_holds_no_object_is_empty(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert json_object(tmp_path / "a.json") == json_object(tmp_path / "none.json") == json_object(tmp_path) == {}


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": "ü"}), encoding="utf-8")
    assert json_object(tmp_path / "a.json") == {"a": "ü"}


def test_a_file_is_replaced_only_when_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
