from __future__ import annotations

import json
from dataclasses import dataclass, field

import pluggy
import pytest

import ft_hookspecs.specs
from ft.options import DataOptions
from ft.testing import tiny_tokenizer
from ft_hookspecs import Example, Message, Plan, Row, hookimpl


@dataclass
class Rows:
    """A data plugin over rows in memory: each has ``q`` and ``a``, or is an error."""

    rows: list = field(default_factory=list)
    empty: str = ""
    """The name of a data set without rows."""

    @hookimpl
    def ft_load_dataset(self, source):
        rows = [] if source.name == self.empty else self.rows
        return (row if isinstance(row, Exception) else Row(row, f"{source.name}:{n}") for n, row in enumerate(rows, 1))

    @hookimpl
    def ft_read_format(self, columns):
        return self.read if "q" in columns else None

    def read(self, row):
        if callable(row.data["a"]):
            row.data["a"]()
        return Example(row.where, messages=(Message("user", row.data["q"]), Message("assistant", row.data["a"])))


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def hook(rows):
    manager = pluggy.PluginManager("ft")
    manager.add_hookspecs(ft_hookspecs.specs)
    manager.register(rows)
    return manager.hook


@pytest.fixture
def make_plan(tmp_path):
    def make(**options):
        data = DataOptions(**{"dataset_dir": str(tmp_path), **options})
        values = {**data.model_dump(), "cache_dir": str(tmp_path / "cache"), "seed": 7}
        return Plan(values=values, sources={}, plugins=(), models=(data,), output_dir=None)

    return make


@pytest.fixture
def write_info(tmp_path):
    def write(entries):
        text = entries if isinstance(entries, str) else json.dumps(entries, indent=1)
        (tmp_path / "dataset_info.json").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()
