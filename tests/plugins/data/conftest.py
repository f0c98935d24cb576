from __future__ import annotations

import json

import pluggy
import pytest

import ft_hookspecs.specs
from ft.data import load_splits
from ft.options import DataOptions
from ft.testing import tiny_tokenizer
from ft_hookspecs import Plan
from ft_plugins.data import alpaca, files, openai, sharegpt, templates, text, trl


@pytest.fixture(scope="session")
def hook():
    manager = pluggy.PluginManager("ft")
    manager.add_hookspecs(ft_hookspecs.specs)
    for plugin in (alpaca, files, openai, sharegpt, templates, text, trl):
        manager.register(plugin)
    manager.check_pending()
    return manager.hook


def make_plan(**options):
    data = DataOptions(**options)
    return Plan(values=data.model_dump(), sources={}, plugins=(), models=(data,), output_dir=None)


@pytest.fixture
def plan():
    return make_plan


@pytest.fixture
def load(hook, tmp_path):
    """Examples of a file with this content, declared in dataset_info.json if there is more to say of it."""

    def load(content, name="rows.json", *, counts=None, on_bad_row="error", **entry):
        given = content if isinstance(content, str | bytes) else json.dumps(content, indent=1)
        (tmp_path / name).write_bytes(given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass"))
        (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": name, **entry}}))
        options = make_plan(dataset=["mine"], dataset_dir=str(tmp_path), on_bad_row=on_bad_row)
        [(_, examples, made)] = load_splits(hook, options)
        if counts is not None:
            counts.add(made)
        return list(examples)

    return load


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()
