"""What is installed, from metadata alone: nothing of a plugin is imported here.

A few hundred distributions are usual, and nearly all of them are nobody's plugin: of those only ``entry_points.txt`` is
read. One that is damaged is reported and hurts no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import TYPE_CHECKING, Final

from ft.errors import nearest
from ft_hookspecs import KINDS, PluginInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SELECTORS: Final = "selectors"
"""The group ``ft.selectors`` holds no plugins but what maps configuration keys to them."""

COMMANDS: Final = "commands"
"""The group ``ft.commands`` holds functions that are commands of ``ft``."""

PREFIX: Final = "ft."
OURS: Final = re.compile(r"^\s*\[\s*ft\.", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Broken:
    """A distribution, or one entry point of it, whose metadata cannot be used."""

    distribution: str
    why: str


@dataclass(frozen=True)
class Found:
    """Every installed plugin by kind and name; a name that two distributions claim stands here twice."""

    plugins: tuple[PluginInfo, ...] = ()
    broken: tuple[Broken, ...] = ()
    selectors: tuple[PluginInfo, ...] = ()
    commands: tuple[PluginInfo, ...] = ()

    def __iter__(self) -> Iterator[PluginInfo]:
        return iter(self.plugins)

    def named(self, name: str) -> tuple[PluginInfo, ...]:
        """The plugins that a bare name or ``kind:name`` can mean."""
        return tuple(plugin for plugin in self.plugins if name in (plugin.name, plugin.id))


def find_plugins() -> Found:
    """Every installed plugin of every kind, without importing any."""
    plugins, broken = find_entry_points()
    order = {kind: place for place, kind in enumerate(KINDS)}
    ours = {plugin for plugin in plugins if plugin.kind in order}
    strangers = [_unknown_group(plugin) for plugin in plugins if plugin.kind not in (*order, SELECTORS, COMMANDS)]
    return Found(
        plugins=tuple(sorted(ours, key=lambda plugin: (order[plugin.kind], plugin))),
        broken=(*broken, *strangers),
        selectors=tuple(sorted(plugin for plugin in plugins if plugin.kind == SELECTORS)),
        commands=tuple(sorted(plugin for plugin in plugins if plugin.kind == COMMANDS)),
    )


def find_entry_points() -> tuple[list[PluginInfo], list[Broken]]:
    """Every entry point in a group ``ft.…``, as a plugin of that kind, and what could not be read."""
    plugins: list[PluginInfo] = []
    broken: list[Broken] = []
    seen: set[str] = set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if OURS.search(text) and _first_of_its_name(distribution, seen):
                plugins += _plugins_of(distribution, broken)
        except Exception as error:  # metadata of strangers: it may be damaged in any way
            broken.append(Broken(_name(distribution), f"{type(error).__name__}: {error}"))
    return plugins, broken


def _first_of_its_name(distribution: Distribution, seen: set[str]) -> bool:
    """As for imports, the first on ``sys.path`` is the one that counts."""
    name = _canonical(_name(distribution))
    first = name not in seen
    seen.add(name)
    return first


def _plugins_of(distribution: Distribution, broken: list[Broken]) -> Iterable[PluginInfo]:
    name, version = _name(distribution), _version(distribution)
    for entry in distribution.entry_points:
        if not entry.group.startswith(PREFIX):
            continue
        if EntryPoint.pattern.match(entry.value):
            yield PluginInfo(entry.group.removeprefix(PREFIX), entry.name, entry.value, name, version)
        else:
            broken.append(
                Broken(name, f"entry point {entry.name!r} in {entry.group}: {entry.value!r} does not name a module")
            )


def _name(distribution: Distribution) -> str:
    """Its name, or where it lies when its metadata has none."""
    try:
        name: str | None = distribution.metadata["Name"]
    except Exception:  # the metadata is missing or damaged
        name = None
    return name or str(distribution.locate_file(""))


def _version(distribution: Distribution) -> str:
    return distribution.metadata["Version"] or "of no version"


def _unknown_group(plugin: PluginInfo) -> Broken:
    meant = "".join(f"; did you mean {PREFIX}{kind}?" for kind in nearest(plugin.kind, (*KINDS, COMMANDS)))
    return Broken(plugin.distribution, f"{PREFIX}{plugin.kind} ({plugin.name}) is not a kind of plugin{meant}")


def _canonical(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503); ``packaging`` would cost a third of ``ft --help``."""
    return re.sub(r"[-_.]+", "-", name).lower()
