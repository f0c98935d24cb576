"""What docs/learning.md says is what the runs recorded, and what must hold of each holds."""

import importlib.util
import sys
from pathlib import Path

import pytest

from ft.plugins import find_plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def learning():
    spec = importlib.util.spec_from_file_location("learning", ROOT / "benchmarks" / "learning.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["learning"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["learning"]


def test_the_page_is_what_the_results_say(learning):
    assert learning.PAGE.read_text(encoding="utf-8") == learning.page()


def test_what_must_hold_of_each_example_that_has_run_holds(learning):
    assert learning.results().keys() == learning.EXAMPLES.keys()
    assert [(name, text) for name in learning.results() for text, holds in learning.claims_of(name) if not holds] == []


def test_every_stage_is_among_the_examples(learning):
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == ("stages", "ft-framework")}
    assert {name.partition("-")[0] for name in learning.EXAMPLES} == shipped


def test_an_example_that_has_not_run_is_said_to_have_not(learning):
    page = learning.PAGE.read_text(encoding="utf-8")
    missing = [example for name, example in learning.EXAMPLES.items() if name not in learning.results()]
    assert [each for each in missing if f"$ ft run {' '.join(each.words)}" not in page] == []
    assert bool(missing) is ("Not run yet" in page)


def test_the_commands_are_those_of_the_examples(learning):
    for name, result in learning.results().items():
        assert result["command"] == " ".join(["ft", "run", *learning.EXAMPLES[name].words])
        assert result["steps"] > 0
