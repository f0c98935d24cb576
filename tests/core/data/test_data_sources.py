import subprocess
import sys

import pytest

from ft.data import dataset_sources
from ft.errors import DataError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[]", encoding="utf-8")
    return path


def test_an_entry_keeps_the_defaults_of_what_it_does_not_name(make_plan, write_info, file):
    write_info({"mine": {"file_name": "rows.json", "columns": {"prompt": "q", "query": None}, "tags": {}}})
    [source] = dataset_sources(make_plan(dataset=["mine"]))
    assert (source.location, source.columns, source.formatting) == (str(file), {"prompt": "q"}, "")
    assert source.declared_at.endswith("dataset_info.json:2")


def test_every_key_of_an_entry_arrives(make_plan, write_info):
    write_info(
        {
            "hub": {
                "hf_hub_url": "owner/name",
                "ms_hub_url": "other/name",
                "formatting": "sharegpt",
                "ranking": True,
                "subset": "en",
                "split": "test",
                "folder": "part",
                "num_samples": 3,
            }
        }
    )
    [source] = dataset_sources(make_plan(eval_dataset=["hub"]), "eval_dataset")
    assert (source.location, source.formatting, source.ranking) == ("owner/name", "sharegpt", True)
    assert (source.subset, source.split, source.folder, source.num_samples) == ("en", "test", "part", 3)


def test_a_path_is_looked_for_here_then_in_dataset_dir(make_plan, file, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert dataset_sources(make_plan(dataset=["rows.json"]))[0].location == str(file)
    (elsewhere / "rows.json").write_text("[]")
    assert dataset_sources(make_plan(dataset=["rows.json"]))[0].location == str(elsewhere / "rows.json")
    assert dataset_sources(make_plan(dataset=[str(file.parent)]))[0].location == str(file.parent)


def test_a_hub_id_needs_no_entry(make_plan):
    assert dataset_sources(make_plan(dataset=["owner/name"]))[0].location == "owner/name"


def test_a_dataset_dir_may_lie_behind_a_link(make_plan, write_info, file, tmp_path):
    write_info({"mine": {"file_name": "rows.json"}})
    (tmp_path / "link").symlink_to(tmp_path)
    assert dataset_sources(make_plan(dataset=["mine"], dataset_dir=str(tmp_path / "link")))[0].location == str(file)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"script_url": "x"}, "only script_url"),
        ({"ms_hub_url": "x/y"}, "only ms_hub_url"),
        ({"cloud_file_name": "s3://x"}, "download the file"),
        ({}, "file_name"),
        ({"file_name": "row.json"}, "did you mean 'rows.json'?"),
        ({"file_nam": "rows.json"}, "did you mean 'file_name'"),
        ({"file_name": 3}, "file_name: Input should be a valid string"),
        ({"file_name": "rows.json", "num_samples": 0}, "greater than 0"),
        ([], "not declared as it should be"),
    ],
)
def test_a_bad_entry_is_told_with_its_line(make_plan, write_info, file, entry, said):
    write_info({"first": {"file_name": "rows.json"}, "mine": entry})
    with pytest.raises(DataError, match="mine") as caught:
        dataset_sources(make_plan(dataset=["mine"]))
    assert said in str(caught.value)
    assert caught.value.where.endswith("dataset_info.json:5")


@pytest.mark.parametrize("outside", ["../secret.json", "/etc/passwd", "link/secret.json"])
def test_an_entry_may_not_name_a_file_outside_its_folder(make_plan, write_info, tmp_path, tmp_path_factory, outside):
    (tmp_path / "link").symlink_to(tmp_path_factory.mktemp("outside"))
    write_info({"mine": {"file_name": outside}})
    with pytest.raises(DataError, match="outside dataset_dir"):
        dataset_sources(make_plan(dataset=["mine"]))


def test_an_unknown_name_gives_the_nearest_and_the_path(make_plan, write_info):
    write_info({"alpaca_en_demo": {"file_name": "x.json"}})
    with pytest.raises(DataError, match="did you mean 'alpaca_en_demo'") as caught:
        dataset_sources(make_plan(dataset=["alpaca_en_dmo"]))
    assert caught.value.where.endswith("dataset_info.json")
    with pytest.raises(DataError, match=r"'gone.jsonl' does not exist"):
        dataset_sources(make_plan(dataset=["gone.jsonl"]))


@pytest.mark.parametrize(
    ("text", "place"), [('{\n "a": {,}\n}', ":2:8"), ("[]", ":1"), ("[" * 100_000, ":1"), ('{"a": {}, "a": {}}', ":1")]
)
def test_a_malformed_info_file_is_told_with_its_place(make_plan, write_info, text, place):
    write_info(text)
    with pytest.raises(DataError) as caught:
        dataset_sources(make_plan(dataset=["a"]))
    assert caught.value.where.endswith(f"dataset_info.json{place}")


def test_importing_the_data_path_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'jinja2', 'tokenizers'}"
    code = f"import sys, ft.data, ft_plugins.data.files, ft_plugins.data.templates; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
