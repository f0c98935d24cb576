"""Which unselected plugin declares a key: read from source, never by importing the plugin."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from ft.config import key_owner
from ft.config.owners import _tree, declared_keys
from ft.plugins import find_plugins
from ft_hookspecs import PluginInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPLODE = "raise RuntimeError('imported')\n"
FILES = {
    "ownpkg/__init__.py": EXPLODE,
    "ownpkg/sub/__init__.py": EXPLODE,
    "ownpkg/sub/plain.py": EXPLODE + "from typing import ClassVar\nfrom ft_hookspecs import PluginOptions\n"
    "class Plain(PluginOptions):\n    plain_rank: int = 8\n    plain_names: list[str] = []\n"
    "    COUNT: ClassVar[int] = 1\n    _hidden: int = 0\n"
    "class Other:\n    other: int = 1\n",
    "ownpkg/sub/derived.py": "import ft_hookspecs\nfrom ownpkg.shared import Shared as Base\n"
    "class Own(ft_hookspecs.PluginOptions):\n    own_key: int = 1\n"
    "class Derived(Base):\n    derived_key: int = 1\n"
    "def ft_options():\n    return Derived\n",
    "ownpkg/sub/dotted.py": "from ownpkg import shared as _shared\n"
    "class Dotted(_shared.Shared):\n    dotted_key: int = 1\n"
    "def ft_options():\n    return Dotted\n",
    "ownpkg/sub/borrowed.py": "from ..shared import Shared\ndef ft_options():\n    return Shared\n",
    "ownpkg/shared.py": "from ft_hookspecs import PluginOptions\n"
    "class Shared(PluginOptions):\n    shared_key: int = 1\n",
    "ownpkg/sub/packed/__init__.py": "from .options import Packed\ndef ft_options():\n    return Packed\n",
    "ownpkg/sub/packed/options.py": "from ft_hookspecs import PluginOptions\n"
    "class Packed(PluginOptions):\n    packed_key: int = 1\n",
    "ownpkg/sub/broken.py": "class (:\n",
    "ownpkg/sub/circle.py": "from ownpkg.sub.circle import Loop\ndef ft_options():\n    return Loop\n",
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    _tree.cache_clear()
    yield
    assert not [name for name in sys.modules if name.startswith("ownpkg")]
    _tree.cache_clear()


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        ("ownpkg.sub.plain", {"plain_rank", "plain_names"}),
        ("ownpkg.sub.derived", {"shared_key", "derived_key"}),
        ("ownpkg.sub.borrowed", {"shared_key"}),
        ("ownpkg.sub.dotted", {"shared_key", "dotted_key"}),
        ("ownpkg.sub.packed", {"packed_key"}),
        ("ownpkg.sub.broken", set()),
        ("ownpkg.sub.circle", set()),
        ("ownpkg.missing.module", set()),
        ("no_such_package", set()),
        ("", set()),
    ],
)
def test_keys_of_a_module(module: str, keys: set[str]) -> None:
    assert declared_keys(module) == keys


class Installed:
    def __init__(self, *infos: PluginInfo) -> None:
        self.infos = infos
        self.asked = 0

    def __iter__(self) -> Iterator[PluginInfo]:
        self.asked += 1
        return iter(self.infos)


def test_owner_is_an_unselected_plugin() -> None:
    plain = PluginInfo("adapters", "plain", "ownpkg.sub.plain:plugin", "d", "1")
    first = PluginInfo("stages", "first", "ownpkg.sub.borrowed", "d", "1")
    second = PluginInfo("stages", "second", "ownpkg.sub.derived", "d", "1")
    found = Installed(plain, first, second)
    owner_of = key_owner(found, [second])
    assert found.asked == 0
    assert owner_of("plain_rank") == "adapters:plain"
    assert owner_of("shared_key") == "stages:first"
    assert owner_of("derived_key") is None
    assert found.asked == 1
    assert key_owner(found, [])("shared_key") == "stages:first, stages:second"


SHIPPED = [info for info in find_plugins() if info.value.startswith("ft_plugins.")]


@pytest.mark.parametrize("info", SHIPPED, ids=str)
def test_the_keys_of_a_plugin_that_ships_are_all_found(info: PluginInfo) -> None:
    module = importlib.import_module(info.value)
    options = module.ft_options() if hasattr(module, "ft_options") else None
    assert declared_keys(info.value) == set(options.model_fields if options else ())
