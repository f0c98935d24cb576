"""Plugins that are not packaged: a Python file or an importable module of one's own."""

from __future__ import annotations

import importlib.util
import sys
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.errors import PluginError
from ft_hookspecs import PluginInfo, Selection

if TYPE_CHECKING:
    from types import ModuleType

IN_HOUSE: Final = "in-house"


def is_in_house(plugin: PluginInfo) -> bool:
    """Whether the plugin was given by path or module, not by an installed name."""
    return plugin.distribution == IN_HOUSE


def looks_in_house(word: str) -> bool:
    """Whether a word is a path or a dotted module rather than a name."""
    return is_file(word) or ("." in word and all(part.isidentifier() for part in word.split(".")))


def is_file(word: str) -> bool:
    """Whether a word is the path of a Python file rather than a module."""
    return word.endswith(".py") or "/" in word or "\\" in word


def in_house_plugin(wish: Selection) -> PluginInfo:
    """The plugin behind a path, relative to the current directory, or a dotted module. Nothing is imported.

    Raises:
        PluginError: there is no such file.
    """
    kind = wish.kind or "plugins"
    if not is_file(wish.plugin):
        return PluginInfo(kind, wish.plugin.rpartition(".")[2], wish.plugin, IN_HOUSE, "")
    path = Path(wish.plugin).expanduser().resolve()
    if not path.is_file():
        raise PluginError(
            f"there is no plugin file {wish.plugin!r}",
            where=wish.because,
            why=f"a path is relative to the current directory, so this is {path}",
            remedy="correct the path, or give the name of an installed plugin",
        )
    return PluginInfo(kind, path.stem, str(path), IN_HOUSE, "")


def module_name(path: str) -> str:
    """The name under which a file is imported: its own for each path, and the same in every process of a run."""
    return f"ft_in_house_{Path(path).stem}_{blake2b(path.encode(), digest_size=4).hexdigest()}"


def import_file(path: str) -> ModuleType:
    """Import a file as a package of one module, so that what lies beside it is at ``from .sibling import …``.

    Its folder is not put on ``sys.path``: a ``json.py`` in it must not become everybody's ``json``.
    """
    name = module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(Path(path).parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pydantic look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
