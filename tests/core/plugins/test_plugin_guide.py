"""What the plugin guide shows works as it stands."""

import re
from pathlib import Path

import pytest

from ft.plugins import PluginManager, find_plugins
from ft.plugins.in_house import import_file
from ft.testing import build_wheel, install_wheel, tiny_model
from ft_hookspecs import KINDS, PluginInfo

GUIDE = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
TOML = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)


def block(words: str) -> str:
    (text,) = (text for text in PYTHON if words in text)
    return text


def test_the_plugin_in_a_file_trains_the_norms(tmp_path):
    path = tmp_path / "norms.py"
    path.write_text(block("lab/norms.py"), encoding="utf-8")
    manager, info = PluginManager(), PluginInfo("adapters", "norms", str(path), "in-house", "")
    manager.load(info)
    change = manager.call(info, "ft_adapt_model", run=None, model=tiny_model())
    trained = [name for name, parameter in change.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 5
    assert all("norm" in name for name in trained)
    assert manager.hook.ft_save_model(run=None, model=change.model, folder=tmp_path / "saved") is True
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_the_options_load(tmp_path):
    path = tmp_path / "sparse.py"
    path.write_text(block("ft_api_version = 1").replace("liger_kernel", "pluggy") + block("class SparseOptions"))
    manager = PluginManager()
    manager.load(PluginInfo("plugins", "sparse", str(path), "in-house", ""))
    ((_, model),) = manager.each("ft_options")
    assert list(model.model_fields) == ["sparse_ratio"]


@pytest.mark.usefixtures("no_discovery")
def test_the_packaging_and_the_test_in_it_work(tmp_path, monkeypatch):
    files = {"pyproject.toml": TOML[0], "ft_sparse/__init__.py": block("lab/norms.py")}
    install_wheel(build_wheel(tmp_path / "project", files), tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (info,) = find_plugins()
    assert (info.id, info.distribution) == ("adapters:sparse", "ft-sparse")
    test = tmp_path / "guide_example.py"
    test.write_text(block("tests/test_sparse.py"), encoding="utf-8")
    import_file(str(test)).test_only_norms_train()


def test_every_kind_and_hidden_word_is_named():
    assert all(f"`ft.{kind}`" in GUIDE for kind in (*KINDS, "selectors"))
