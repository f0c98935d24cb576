"""Which installed plugin declares a key, found without importing any: a plugin's source is parsed, not run."""

from __future__ import annotations

import ast
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ft_hookspecs import PluginInfo

_BASE: Final = "PluginOptions"
_DEEPEST: Final = 8
"""How many modules an option class may be handed through before it is no longer followed."""


def key_owner(found: Iterable[PluginInfo], selected: Collection[PluginInfo]) -> Callable[[str], str | None]:
    """A function from a key to the unselected plugins that declare it (``adapters:lora``), or none.

    No source is read before the first call.
    """

    @cache
    def owners() -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for info in found:
            if info not in selected:
                for key in declared_keys(info.value.partition(":")[0]):
                    keys.setdefault(key, []).append(info.id)
        return keys

    return lambda key: ", ".join(owners().get(key, ())) or None


def declared_keys(module: str) -> frozenset[str]:
    """The option keys of a plugin: the fields of the classes that its ``ft_options`` names, or of all it has.

    ``module`` is a dotted name, or the path of a file.
    """
    tree = _tree(module)
    if tree is None:
        return frozenset()
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return frozenset(key for name in _returned(tree) or classes for key in _fields(module, name, _DEEPEST))


def _returned(tree: ast.Module) -> set[str]:
    hooks = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "ft_options")
    returns = (node.value for hook in hooks for node in ast.walk(hook) if isinstance(node, ast.Return))
    return {value.id for value in returns if isinstance(value, ast.Name)}


def _fields(module: str, name: str, depth: int) -> set[str]:
    """The annotated fields of an option class and of its bases; nothing if it is no option class.

    ``name`` is as the module's source writes it: ``Options``, or ``other.Options``.
    """
    tree = _tree(module) if depth else None
    outer, _, inner = name.partition(".")
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == outer:
                    path = ".".join(filter(None, (_absolute(node, module), alias.name, inner)))
                    return _fields(*path.rpartition(".")[::2], depth - 1)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _own_fields(node, module, depth)
    return set()


def _own_fields(cls: ast.ClassDef, module: str, depth: int) -> set[str]:
    bases = [ast.unparse(base) for base in cls.bases]
    further = [base for base in bases if base.rpartition(".")[2] != _BASE]
    inherited = {key for base in further for key in _fields(module, base, depth - 1)}
    if further == bases and not inherited:
        return set()
    own = {ast.unparse(node.target) for node in cls.body if isinstance(node, ast.AnnAssign) and not _is_constant(node)}
    return inherited | {key for key in own if not key.startswith("_") and key != "model_config"}


def _is_constant(node: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(node.annotation)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module an import names. ``from .x import y`` in ``a.b`` is ``a.x``, in a package ``a.b`` it is ``a.b.x``."""
    if not node.level:
        return node.module or ""
    spec = _spec(module)
    parents = module.split(".") + ([""] if spec and spec.submodule_search_locations else [])
    return ".".join([*parents[: -node.level], *filter(None, [node.module])])


@cache
def _tree(module: str) -> ast.Module | None:
    try:
        source = module if module.endswith(".py") else getattr(_spec(module), "origin", None)
        return ast.parse(Path(source).read_text(encoding="utf-8")) if source else None
    except (OSError, SyntaxError, ValueError):
        return None  # a broken plugin is judged when it is selected


def _spec(module: str) -> ModuleSpec | None:
    """Where a module lies. ``find_spec`` would import the packages above it, so only the topmost is asked that way."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec
