"""Fixtures for the tests of a plugin: ``pytest_plugins = ["ft.testing.pytest_plugin"]`` in a ``conftest.py``.

``no_discovery``    nothing that is installed is found, only what ``fake_plugin`` makes
``fake_plugin``     installs a plugin for the length of a test
``recorded_hooks``  the list of hook calls, as they are made
``tiny_model_dir``  a folder with a tiny Llama and its tokenizer, made once a session; do not write into it
"""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ft.plugins import finding
from ft.plugins.implementation import Implementation
from ft.testing.packages import FakeDistribution
from ft.testing.tiny import save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HEADER = "from ft_hookspecs import hookimpl\n"


class PluginMaker(Protocol):
    """What the fixture ``fake_plugin`` is."""

    def __call__(
        self, name: str, source: str = "", *, kind: str = "plugins", distribution: str = "", **more: Any
    ) -> FakeDistribution:
        """Install a distribution with one plugin and put it on ``sys.path``.

        Args:
            name: of the plugin.
            source: of its module, which ``from ft_hookspecs import hookimpl`` precedes.
            kind: of the plugin.
            distribution: its distribution, ``ft-<name>`` unless said.
            more: further fields of :class:`~ft.testing.FakeDistribution`.
        """
        ...


@dataclass(frozen=True, slots=True)
class HookCall:
    """One call of one plugin's hook and what it returned."""

    plugin: str
    hook: str
    arguments: Mapping[str, Any]
    result: Any


@pytest.fixture
def no_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every distribution that stood on ``sys.path`` when the test began."""
    installed = set(sys.path)

    def added() -> Iterator[importlib.metadata.Distribution]:
        folders = [folder for folder in sys.path if folder not in installed]
        return iter(importlib.metadata.distributions(path=folders))

    monkeypatch.setattr(finding, "distributions", added)


@pytest.fixture
def fake_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginMaker]:
    """Install plugins in folders of their own; afterwards they and their modules are gone."""
    imported = set(sys.modules)
    count = itertools.count()

    def make(
        name: str, source: str = "", *, kind: str = "plugins", distribution: str = "", **more: Any
    ) -> FakeDistribution:
        number = next(count)
        module = f"fake_{name.replace('-', '_')}_{number}"
        settings = {
            "entry_points": {f"ft.{kind}": {name: module}},
            "modules": {f"{module}.py": HEADER + dedent(source)},
            **more,
        }
        fake = FakeDistribution(distribution or f"ft-{name}", **settings)
        folder = tmp_path / f"site-{number}"
        fake.install(folder)
        monkeypatch.syspath_prepend(folder)
        return fake

    yield make
    for module in set(sys.modules) - imported:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture
def recorded_hooks(monkeypatch: pytest.MonkeyPatch) -> list[HookCall]:
    """Every hook call of every :class:`~ft.plugins.PluginManager`, in order, that ended without an error."""
    calls: list[HookCall] = []
    original = Implementation.__call__

    def recording(self: Implementation, **arguments: Any) -> Any:
        result = original(self, **arguments)
        calls.append(HookCall(self.info.id, self.hook, arguments, result))
        return result

    monkeypatch.setattr(Implementation, "__call__", recording)
    return calls


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and its tokenizer in the Hugging Face layout, for ``model_name_or_path``."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-llama"))
