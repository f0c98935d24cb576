"""Plugins of one's own by path or module: isolated from each other and from sys.path."""

import sys
from textwrap import dedent

import pytest

from ft.errors import PluginError
from ft.plugins import Found, PluginManager, select
from ft_hookspecs import Selection

SOURCE = """
    from __future__ import annotations
    import dataclasses
    from ft_hookspecs import PluginOptions, hookimpl
    from .helper import ANSWER

    @dataclasses.dataclass
    class Record:
        value: float = ANSWER

    class MineOptions(PluginOptions):
        mine_ratio: float | None = None

    @hookimpl
    def ft_options(): return MineOptions

    @hookimpl
    def ft_evaluate(when): return {when: Record().value}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def writer(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(dedent(text))

    return writer


def load(*words: str) -> PluginManager:
    manager = PluginManager()
    for info in select(Found(), [Selection(word, "--plugin") for word in words]):
        manager.load(info)
    return manager


def test_a_file_works_with_dataclasses_pydantic_and_the_files_beside_it(write):
    write(mine=SOURCE, helper="ANSWER = 42.0\n", json="raise SystemExit('not the json you meant')\n")
    path = list(sys.path)
    manager = load("mine.py")
    assert manager.hook.ft_evaluate(run=0, trainer=0, when="x") == [{"x": 42.0}]
    ((_, options),) = manager.each("ft_options")
    assert options(mine_ratio="0.5").mine_ratio == 0.5
    assert sys.path == path
    assert "mine" not in sys.modules
    assert "helper" not in sys.modules


def test_two_files_of_one_name_do_not_mix(write, tmp_path):
    source = "from ft_hookspecs import hookimpl\n@hookimpl\ndef ft_evaluate(): return {{'x': {0}}}\n"
    for number in (1.0, 2.0):
        folder = tmp_path / f"lab{number:.0f}"
        folder.mkdir()
        (folder / "mine.py").write_text(source.format(number))
    write()
    results = [load(f"lab{n}/mine.py").hook.ft_evaluate(run=0, trainer=0, when="") for n in (1, 2, 1)]
    assert results == [[{"x": 1.0}], [{"x": 2.0}], [{"x": 1.0}]]


def test_a_file_that_fails_can_be_mended_and_loaded_again(write):
    write(mine="x = 1 / 0\n")
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        load("mine.py")
    assert caught.value.where.endswith("mine.py:1")
    assert caught.value.remedy.startswith("fix it there")
    write(mine="from ft_hookspecs import hookimpl\n@hookimpl\ndef ft_evaluate(): return {'mended': True}\n")
    assert load("mine.py").hook.ft_evaluate(run=0, trainer=0, when="")


def test_an_error_in_a_hook_is_placed_in_the_file(write):
    write(mine="from ft_hookspecs import hookimpl\n@hookimpl\ndef ft_evaluate():\n    return {}['x']\n")
    with pytest.raises(PluginError, match=r"'mine' \(plugins, in-house, .*mine.py\) failed in") as caught:
        load("mine.py").hook.ft_evaluate(run=0, trainer=0, when="")
    assert caught.value.where.endswith("mine.py:4")


@pytest.mark.parametrize("missing", ["from .absent import x\n", "import not_there_at_all\n"])
def test_a_missing_import_is_told_apart(write, missing):
    write(mine=missing)
    with pytest.raises(PluginError) as caught:
        load("mine.py")
    assert ("correct the name" in caught.value.remedy) == missing.startswith("from .")
    assert caught.value.where.endswith("mine.py:1")


def test_a_file_that_is_not_python_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(PluginError, match="is not a Python file"):
        load(str(tmp_path / "notes.txt"))


def test_a_dotted_module_is_imported_as_it_is(write, tmp_path, monkeypatch):
    (tmp_path / "lab_of_mine").mkdir()
    (tmp_path / "lab_of_mine" / "stage.py").write_text(
        "from ft_hookspecs import hookimpl\n@hookimpl\ndef ft_evaluate(): return {}\n"
    )
    write()
    with pytest.raises(PluginError, match="no module 'lab_of_mine'") as caught:
        load("lab_of_mine.stage")
    assert "PYTHONPATH=." in caught.value.remedy
    monkeypatch.syspath_prepend(tmp_path)
    assert [info.name for info in load("lab_of_mine.stage").infos] == ["stage"]
    monkeypatch.delitem(sys.modules, "lab_of_mine.stage")
    monkeypatch.delitem(sys.modules, "lab_of_mine")
