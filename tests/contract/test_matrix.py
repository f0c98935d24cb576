"""The composition matrix: what CI runs of it, and that its page says what was found."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from ft.plugins import find_plugins
from ft.testing import Runs

ROOT = Path(__file__).parents[2]
IN_CI = 60


def load_matrix():
    spec = importlib.util.spec_from_file_location("matrix", Path(__file__).with_name("matrix.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["matrix"] = module  # its dataclass looks its module up
    spec.loader.exec_module(module)
    return module


matrix = load_matrix()
SLICE = random.Random(0).sample([cell for cell in matrix.cells() if cell[-1] not in matrix.SLOW], IN_CI)
"""Cells of all kinds, the same each time; of these about one in four runs, the others are refused."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return matrix.write_data(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory):
    return Runs(matrix.always(tiny_model_dir, tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("kind", ["stages", "adapters", "quantizers", "accelerators"])
def test_every_plugin_of_these_kinds_is_on_an_axis(kind):
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == (kind, "ft-framework")}
    named = {word for axis in matrix.AXES.values() for name in axis for word in (name, name.split()[0])}
    assert shipped - named - matrix.APART.keys() == set()


def test_the_page_is_what_was_found():
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(matrix.outcomes())


def test_no_cell_fails():
    assert [cell.id for cell, outcome in matrix.outcomes().items() if outcome.verdict == "fails"] == []


def test_the_slice_has_cells_of_all_sorts():
    found = Counter(matrix.outcomes()[cell].verdict for cell in SLICE)
    assert found.keys() == {"works", "refused", "gpu"}
    assert found["works"] >= 10


def test_what_does_not_run_says_why():
    assert [cell.id for cell, found in matrix.outcomes().items() if found.verdict != "works" and not found.why] == []


@pytest.mark.parametrize("cell", SLICE, ids=lambda cell: cell.id)
def test_a_cell_works_or_is_refused_while_planning(cell, run, data, tmp_path):
    outcome = matrix.judge(cell, run, data, tmp_path / "out")
    assert outcome.verdict != "fails", outcome.why
    assert outcome == matrix.outcomes()[cell]
