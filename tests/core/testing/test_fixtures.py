"""The fixtures that plugin authors get."""

import sys

import pytest

from ft.errors import PluginError
from ft.plugins import PluginManager, find_plugins
from ft.testing import FakeDistribution, plugin_manager
from ft_hookspecs import hookimpl


def test_no_discovery_hides_what_is_installed_and_shows_what_is_added(no_discovery, fake_plugin):
    assert tuple(find_plugins()) == ()
    fake_plugin("sparse", kind="quantizers")
    assert [info.id for info in find_plugins()] == ["quantizers:sparse"]


def test_without_it_a_fake_stands_beside_the_installed(fake_plugin):
    before = {info.id for info in find_plugins()}
    fake_plugin("sparse")
    assert {info.id for info in find_plugins()} - before == {"plugins:sparse"}


@pytest.mark.parametrize("round_", [1, 2])
def test_a_fake_is_gone_with_its_test(fake_plugin, no_discovery, round_):
    assert not [name for name in sys.modules if name.startswith("fake_sparse_")]
    fake_plugin("sparse", f"@hookimpl\ndef ft_evaluate(): return {{'round': {round_}}}\n")
    manager = PluginManager()
    (info,) = find_plugins()
    manager.load(info)
    assert manager.hook.ft_evaluate(run=0, trainer=0, when="") == [{"round": round_}]


def test_hook_calls_are_recorded(recorded_hooks, no_discovery, fake_plugin):
    fake_plugin("a", "@hookimpl\ndef ft_evaluate(when): return {when: 1.0}\n", kind="stages")
    manager = PluginManager()
    (info,) = find_plugins()
    manager.load(info)
    manager.hook.ft_evaluate(run=0, trainer=0, when="x")
    list(manager.each("ft_evaluate", run=0, trainer=0, when="y"))
    assert [(call.plugin, call.hook, call.arguments["when"], call.result) for call in recorded_hooks] == [
        ("stages:a", "ft_evaluate", "x", {"x": 1.0}),
        ("stages:a", "ft_evaluate", "y", {"y": 1.0}),
    ]


def test_a_fake_distribution_is_one_to_python(tmp_path, monkeypatch):
    from importlib.metadata import distribution

    fake = FakeDistribution(
        "ft-sparse", {"ft.adapters": {"sparse": "m"}}, {"m/__init__.py": "  x = 1\n"}, "3.2", ("a>1",)
    )
    fake.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = distribution("ft-sparse")
    assert (found.version, found.requires) == ("3.2", ["a>1"])
    assert [(entry.group, entry.name, entry.value) for entry in found.entry_points] == [("ft.adapters", "sparse", "m")]
    assert (tmp_path / "m" / "__init__.py").read_text() == "x = 1\n"


def test_the_tiny_model_folder_can_be_loaded(tiny_model_dir):
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(tiny_model_dir).model_type == "llama"


def test_a_plugin_at_hand_is_verified_and_blamed():
    class Faulty:
        @hookimpl
        def ft_evaluate(self, when):
            return {when: 1 / 0}

    class Misspelt:
        @hookimpl
        def ft_evaluat(self, when):
            return {}

    with pytest.raises(PluginError, match=r"'Faulty' \(stages, under test, .*failed in ft_evaluate") as caught:
        plugin_manager(Faulty(), kind="stages").hook.ft_evaluate(run=0, trainer=0, when="x")
    assert "test_fixtures.py:" in caught.value.where
    with pytest.raises(PluginError, match="did you mean 'ft_evaluate'"):
        plugin_manager(Misspelt())
