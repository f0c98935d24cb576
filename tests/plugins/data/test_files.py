import codecs
import gzip
import json
import random
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft.errors import DataError, EnvironmentProblem
from ft_hookspecs import DatasetSource, Row
from ft_plugins.data import files, json_rows

ROWS = [{"text": "one"}, {"text": 'two\nlines, "quoted" and ünï 🙂'}, {"text": "three"}]


@pytest.fixture
def read(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(content, name, **source):
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        rows = files.ft_load_dataset(plan(), DatasetSource("mine", str(tmp_path / name), **source))
        return list(rows)

    return read


def places(rows):
    return [row.where for row in rows]


def data(rows):
    return [row.data for row in rows]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class TestGoodFiles:
    def test_an_array_knows_the_line_of_each_element(self, read):
        text = '[{"text": "one"},\n\n {"text":\n "two"}, {"text": "x"}\n,\n  {"text": "four"}]\n'
        assert places(read(text, "a.json")) == ["a.json:1", "a.json:3", "a.json:4", "a.json:6"]
        assert data(read(json.dumps(ROWS, indent=2), "b.json")) == ROWS
        assert read("[]", "c.json") == []

    def test_lines_whatever_the_name(self, read):
        for name in ("a.json", "a.jsonl", "a.ndjson"):
            rows = read("\n" + lines(ROWS[:2]) + "\n\n" + lines(ROWS[2:]), name)
            assert (data(rows), places(rows)) == (ROWS, [f"{name}:2", f"{name}:3", f"{name}:6"])
        assert data(read(json.dumps(ROWS), "b.jsonl")) == ROWS

    def test_a_byte_order_mark_is_no_part_of_the_data(self, read):
        for name, text in (("a.json", json.dumps(ROWS)), ("a.jsonl", lines(ROWS)), ("a.csv", "text\none\n")):
            assert data(read(codecs.BOM_UTF8 + text.encode(), name))[0] == ROWS[0]

    def test_csv_counts_lines_inside_quotes(self, read):
        rows = read('text,n\n"two\nlines",1\r\n\nlast,2\n', "a.csv")
        assert data(rows) == [{"text": "two\nlines", "n": "1"}, {"text": "last", "n": "2"}]
        assert places(rows) == ["a.csv:2", "a.csv:5"]
        assert data(read("text\tn\na, b\t1\n", "a.tsv")) == [{"text": "a, b", "n": "1"}]
        assert len(data(read("text\n" + "x" * 200_000, "b.csv"))[0]["text"]) == 200_000

    def test_text_is_a_row_a_line(self, read):
        rows = read("one\n\n  two \r\nthree", "a.txt")
        assert (data(rows), places(rows)[1]) == ([{"text": "one"}, {"text": "  two "}, {"text": "three"}], "a.txt:3")

    def test_parquet_and_arrow_number_their_rows(self, read, tmp_path):
        table = pa.Table.from_pylist(ROWS)
        pq.write_table(table, tmp_path / "a.parquet")
        with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
            writer.write_table(table)
        with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
            writer.write_table(table)
        for name in ("a.parquet", "file.arrow", "stream.arrow"):
            assert data(read(None, name)) == ROWS
            assert places(read(None, name))[2] == f"{name} row 3"

    def test_compressed(self, read):
        assert data(read(gzip.compress(lines(ROWS).encode()), "a.jsonl.gz")) == ROWS

    def test_a_folder_is_its_files_in_order(self, read, tmp_path):
        (tmp_path / "many" / "part").mkdir(parents=True)
        for number in (2, 1):
            (tmp_path / "many" / "part" / f"{number}.jsonl").write_text(lines([{"text": str(number)}]))
        (tmp_path / "many" / "dataset_info.json").write_text("{}")
        (tmp_path / "many" / "README.md").write_text("x")
        assert data(read(None, "many", folder="part")) == [{"text": "1"}, {"text": "2"}]
        with pytest.raises(DataError, match="no data file"):
            read(None, "many")
        (tmp_path / "many" / "part" / "3.csv").write_text("text\nx")
        with pytest.raises(DataError, match=r"several kinds: .csv, .jsonl"):
            read(None, "many", folder="part")
        with pytest.raises(DataError, match="outside"):
            read(None, "many", folder="../..")


class TestBlocks:
    def test_values_over_the_ends_of_blocks(self, read, monkeypatch):
        text = json.dumps([{"text": "é\\u00e9\\n" * 9, "n": [1.5e10, None, True]}] * 20, indent=1)
        whole = read(text, "a.json")
        for block in (1, 2, 3, 7, 64):
            monkeypatch.setattr(json_rows, "BLOCK", block)
            assert read(text, "a.json") == whole

    def test_columns_are_true_over_blocks(self, read, monkeypatch):
        monkeypatch.setattr(json_rows, "BLOCK", 8)
        with pytest.raises(DataError) as caught:
            read(
                '[{"text": "a"},\n {"text": "b"}, {"text": oops, "and": "much more behind it, more than a block"}]',
                "a.json",
            )
        assert caught.value.where == "a.json:2:26"

    def test_a_long_value_costs_linear_time(self, read):
        def seconds(size):
            text = json.dumps([{"text": "x" * size}])
            begin = time.process_time()
            read(text, "a.json")
            return time.process_time() - begin

        seconds(1 << 20)
        assert seconds(1 << 25) < 24 * max(seconds(1 << 22), 0.01)


BAD = [
    ("malformed line", "a.jsonl", '{"text": "x"}\n{"text": oops}\n', "a.jsonl:2:10", "malformed JSON"),
    ("no object", "a.jsonl", '{"text": "x"}\n[1]\n', "a.jsonl:2", "a row is a list"),
    ("huge number", "a.jsonl", '{"text": ' + "1" * 5000 + "}", "a.jsonl:1", "malformed JSON"),
    ("deep", "a.jsonl", '{"a":' * 90_000, "a.jsonl:1", "malformed JSON"),
    ("not UTF-8 in a line", "a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "a.jsonl:2:11", "byte 0xff"),
    ("malformed array", "a.json", '[{"a": 1},\n {"a" 1}]', "a.json:2:7", "malformed JSON"),
    ("cut array", "a.json", '[{"a": 1},\n {"a": "b', "a.json:2:8", "malformed JSON"),
    ("array without end", "a.json", '[{"a": 1}\n', "a.json:2:1", "malformed JSON"),
    ("comma at the end", "a.json", '[{"a": 1},\n]', "a.json:2:1", "a comma stands before the closing bracket"),
    ("no comma", "a.json", '[{"a": 1}\n {"a": 1}]', "a.json:2:2", "malformed JSON"),
    ("text behind", "a.json", "[]\n[]", "a.json:2:1", "malformed JSON"),
    ("deep array", "a.json", "[" * 90_000, "a.json:1:2", "malformed JSON"),
    ("not UTF-8 in an array", "a.json", b'[{"a": 1},\n {"a": "\xe9"}]', "a.json:2:9", "byte 0xe9"),
    ("pretty object", "a.json", '{\n "a": 1\n}', "a.json:1:2", "malformed JSON"),
    ("element", "a.json", '[{"a": 1},\n 3]', "a.json:2", "a row is a number"),
    ("UTF-16", "a.json", "[]".encode("utf-16"), "a.json:1", "UTF-16"),
    ("empty", "a.json", "", "a.json:1", "is empty"),
    ("blank", "a.csv", " \n \n", "a.csv:1", "is empty"),
    ("fields", "a.csv", 'a,b\n1,2\n"x\ny",2,3\n', "a.csv:3", "3 fields"),
    ("open quote", "a.csv", 'a,b\n1,2\n"x,2\n3,4\n', "a.csv:3", "malformed table"),
    ("same names", "a.csv", "a,a\n1,2\n", "a.csv:1", "does not name the columns"),
    ("not UTF-8 in a table", "a.csv", b"a,b\n1,\xff\n", "a.csv:2:3", "byte 0xff"),
    ("not UTF-8 in text", "a.txt", b"a\n\xff\n", "a.txt:2:1", "byte 0xff"),
    ("damaged parquet", "a.parquet", b"PAR1 no PAR1", "a.parquet row 1", "cannot be read"),
    ("damaged arrow", "a.arrow", b"ARROW", "a.arrow row 1", "cannot be read"),
    ("damaged gzip", "a.jsonl.gz", gzip.compress(b"{}\n" * 99)[:-9], "a.jsonl.gz", "damaged"),
    ("no gzip", "a.jsonl.gz", b"{}", "a.jsonl.gz", "damaged"),
    ("unknown kind", "a.xlsx", b"x", "a.xlsx", "'.xlsx' are not read"),
]  # fmt: skip


def first_error(read, content, name):
    try:
        return next((row for row in read(content, name) if isinstance(row, DataError)), None)
    except DataError as error:
        return error


@pytest.mark.parametrize(("name", "content", "where", "said"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_bad_files_are_told_with_their_place(read, name, content, where, said):
    error = first_error(read, content, name)
    assert error.where == where
    assert said in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("content", [gzip.compress(b"{}\n" * 99)[:-9], b"{}"], ids=["damaged", "not compressed"])
def test_a_damaged_file_is_told_when_its_rows_are_counted_too(plan, tmp_path, content):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    rows = files.ft_load_dataset(plan(), DatasetSource("mine", str(tmp_path / "a.jsonl.gz")))
    with pytest.raises(DataError, match="compressed file is damaged"):
        rows.row_count()


def test_a_bad_row_leaves_the_rest(read):
    for name, text in (("a.jsonl", '{"a": 1}\noops\n\n{"a": 2}\n'), ("a.json", '[{"a": 1}, 3, {"a": 2}]')):
        good, bad, last = read(text, name)
        assert (good.data, last.data) == ({"a": 1}, {"a": 2})
        assert isinstance(bad, DataError)


def test_a_file_without_permission_is_the_environments(read, monkeypatch, tmp_path):
    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(files, "open_binary", refuse)
    with pytest.raises(EnvironmentProblem, match="Permission denied"):
        read("{}", "a.json")


class TestHub:
    def test_rows_of_the_hub(self, plan, monkeypatch):
        import datasets

        asked, table = {}, datasets.Dataset.from_list([{"a": 1}, {"a": 2}])
        monkeypatch.setattr(datasets, "load_dataset", lambda *given, **more: asked.update(more, id=given) or table)
        source = DatasetSource("mine", "owner/name", subset="en", split="test", folder="part")
        rows = files.ft_load_dataset(plan(), source)
        assert list(rows) == [Row({"a": 1}, "owner/name test row 1"), Row({"a": 2}, "owner/name test row 2")]
        assert list(rows.after(1)) == list(rows)[1:]
        named = {"name": "en", "split": "test", "data_dir": "part", "token": None, "streaming": False}
        assert asked == {"id": ("owner/name",), **named}

    def test_without_a_network_it_is_the_environments(self, plan, monkeypatch):
        import datasets

        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(EnvironmentProblem, match="cannot be reached") as caught:
            list(files.ft_load_dataset(plan(), DatasetSource("mine", "owner/no-such-data-set")))
        assert "download the data set" in caught.value.remedy

    @pytest.mark.parametrize(
        ("error", "kind"), [(OSError("reset"), EnvironmentProblem), (ValueError("no csv"), DataError)]
    )
    def test_a_stream_that_breaks_off_is_told(self, plan, monkeypatch, error, kind):
        import datasets

        def rows():
            yield {"a": 1}
            raise error

        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
        stream = iter(files.ft_load_dataset(plan(streaming=True), DatasetSource("mine", "owner/name")))
        assert next(stream).data == {"a": 1}
        with pytest.raises(kind, match=str(error)):
            next(stream)

    def test_an_unknown_split_is_a_data_error(self, plan, monkeypatch):
        import datasets

        def fail(*given, **more):
            raise ValueError("Unknown split 'tset'")

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(DataError, match="tset"):
            list(files.ft_load_dataset(plan(), DatasetSource("mine", "owner/name")))


def test_mutations_of_a_good_file_give_rows_or_errors(read):
    """A quick sweep over raw bytes; the formats have theirs."""
    draw = random.Random(0)
    for _ in range(300):
        name, good = draw.choice(
            [("a.json", json.dumps(ROWS, indent=1)), ("a.jsonl", lines(ROWS)), ("a.csv", "a,b\n1,2")]
        )
        content = bytearray(good.encode())
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        error = first_error(read, bytes(content), name)
        assert error is None or error.where.startswith(name)
