"""Which plugins do the keys and flags of a run name?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ft.errors import PluginError, did_you_mean
from ft.plugins.in_house import in_house_plugin, is_in_house, looks_in_house
from ft_hookspecs import KINDS, PluginInfo, Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ft.plugins.finding import Found


def disabled_plugins(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What ``FT_DISABLE_PLUGINS`` names: a comma-separated list of names, ``kind:name`` or distributions."""
    names = (name.strip() for name in environ.get("FT_DISABLE_PLUGINS", "").split(","))
    return tuple(name for name in names if name)


def select(found: Found, selections: Sequence[Selection], excluded: Collection[str] = ()) -> list[PluginInfo]:
    """The plugins that ``selections`` name, in their order, each once.

    Args:
        found: what is installed.
        selections: each by ``kind:name``, bare name, dotted module or path of a file. A file or module that one
            selection names can be meant by the bare name of another: ``stage: mine`` with ``--plugin lab/mine.py``.
        excluded: names, ``kind:name`` or distributions to leave out. A default (``Selection.default``) that is
            excluded is left out without a word.

    Raises:
        PluginError: a name is unknown, ambiguous, claimed twice, of another kind, or both selected and excluded.
    """
    in_house = {plugin: None for wish in selections if (plugin := _in_house(wish, found)) is not None}
    candidates = _Candidates((*found, *in_house), tuple(excluded), found)
    candidates.check_excluded()
    chosen: list[PluginInfo] = []
    for wish in selections:
        plugin = candidates.resolve(wish, _in_house(wish, found))
        if plugin is not None:
            _add(chosen, plugin, wish)
    return chosen


def _in_house(wish: Selection, found: Found) -> PluginInfo | None:
    """The unpackaged plugin that a wish spells out, or ``None`` when it gives a name."""
    if not looks_in_house(wish.plugin) or found.named(wish.plugin):
        return None
    return in_house_plugin(wish)


def _add(chosen: list[PluginInfo], plugin: PluginInfo, wish: Selection) -> None:
    """Append a plugin unless it is there; one from a file takes the kind of the key that names it."""
    for place, other in enumerate(chosen):
        if other.value == plugin.value and is_in_house(other) and is_in_house(plugin):
            chosen[place] = replace(plugin, kind=_common_kind(plugin, other))
            return
        if other.id == plugin.id:
            if other != plugin:
                raise _ambiguous(wish, [other, plugin])
            return
    chosen.append(plugin)


def _common_kind(plugin: PluginInfo, other: PluginInfo) -> str:
    kinds = sorted({plugin.kind, other.kind} - {"plugins"})
    if len(kinds) > 1:
        raise PluginError(
            f"in-house plugin {plugin.name!r} is selected as one of {' and one of '.join(kinds)}",
            where=plugin.value,
            why="one file is one plugin of one kind",
            remedy="write a file for each",
        )
    return kinds[0] if kinds else "plugins"


@dataclass(frozen=True)
class _Candidates:
    """All that a name can mean, and what must not be used."""

    plugins: tuple[PluginInfo, ...]
    excluded: tuple[str, ...]
    found: Found

    def resolve(self, wish: Selection, in_house: PluginInfo | None) -> PluginInfo | None:
        """The one plugin a wish means; ``None`` when it is a default that was excluded."""
        meant = [in_house] if in_house else self.meant_by(wish)
        if not meant:
            raise self.unknown(wish)
        allowed = [plugin for plugin in meant if not self.exclusion(plugin)]
        if not allowed:
            if wish.default:
                return None
            raise _selected_and_excluded(wish, meant[0], self.exclusion(meant[0]))
        if len(allowed) > 1:
            raise _ambiguous(wish, allowed)
        return replace(allowed[0], kind=wish.kind) if is_in_house(allowed[0]) and wish.kind else allowed[0]

    def meant_by(self, wish: Selection) -> list[PluginInfo]:
        """The plugins of the right kind and name; an in-house one can be of any kind."""
        kind, name = _split(wish)
        return [
            plugin
            for plugin in self.plugins
            if plugin.name == name and (not kind or plugin.kind == kind or is_in_house(plugin))
        ]

    def exclusion(self, plugin: PluginInfo) -> str:
        """Which word excludes this plugin; empty when none does."""
        return next((word for word in self.excluded if word in _words(plugin)), "")

    def check_excluded(self) -> None:
        """A misspelt exclusion would leave in the plugin that it was meant for."""
        known = {word for plugin in (*self.plugins, *self.found.selectors) for word in _words(plugin)}
        for word in self.excluded:
            if word not in known:
                raise PluginError(
                    f"no plugin or distribution is called {word!r}, so it cannot be disabled",
                    where="--no-plugin or FT_DISABLE_PLUGINS",
                    remedy=did_you_mean(word, known) or "take it out; `ft plugins list` shows what is installed",
                )

    def unknown(self, wish: Selection) -> PluginError:
        """The error for a name that nothing has, with the nearest that something has."""
        kind, name = _split(wish)
        of_kind = [plugin.name for plugin in self.plugins if not kind or plugin.kind == kind]
        elsewhere = [plugin.id for plugin in self.plugins if plugin.name == name]
        if elsewhere:
            why = f"{wish.because} takes a plugin of kind {kind}; the installed one is {' and '.join(elsewhere)}"
        else:
            why = f"installed{f' {kind}' if kind else ''}: {', '.join(sorted(set(of_kind))) or 'none'}"
        unread = [f"{one.distribution} cannot be used ({one.why})" for one in self.found.broken]
        return PluginError(
            f"no installed plugin{f' of kind {kind}' if kind else ''} is called {name!r}",
            where=wish.because,
            why="; ".join([why, *unread]),
            remedy=did_you_mean(name, of_kind) or "install the distribution that has it, or name the file of your own",
        )


def _split(wish: Selection) -> tuple[str, str]:
    """The kind, empty when any will do, and the name that a wish gives.

    Raises:
        PluginError: a ``kind:name`` whose kind does not exist or is not the one that the key takes.
    """
    kind, colon, name = wish.plugin.partition(":")
    if not colon:
        return wish.kind, wish.plugin
    if kind not in KINDS:
        remedy = did_you_mean(wish.plugin, [f"{kind}:{name}" for kind in KINDS]) or f"the kinds are {', '.join(KINDS)}"
        raise PluginError(f"there is no kind of plugin called {kind!r}", where=wish.because, remedy=remedy)
    if wish.kind and wish.kind != kind:
        raise PluginError(f"{wish.because} takes a plugin of kind {wish.kind}, not {wish.plugin!r}", where=wish.because)
    return kind, name


def _selected_and_excluded(wish: Selection, plugin: PluginInfo, word: str) -> PluginError:
    return PluginError(
        f"plugin {plugin} is both selected and disabled",
        where=wish.because,
        why=f"{wish.because} selects it, and --no-plugin or FT_DISABLE_PLUGINS names {word!r}",
        remedy="take back one of the two",
    )


def _ambiguous(wish: Selection, meant: list[PluginInfo]) -> PluginError:
    """Either several kinds have the name, or several distributions claim it."""
    installed = [plugin for plugin in meant if not is_in_house(plugin)]
    ids = dict.fromkeys(plugin.id for plugin in meant)
    if installed == meant and len(ids) == len(meant):
        what, remedy = f"plugin name {wish.plugin!r} stands in several kinds", f"write {' or '.join(ids)}"
        return PluginError(what, where=wish.because, remedy=remedy)
    remedy = "rename the file"
    if installed == meant:
        names = dict.fromkeys(plugin.distribution for plugin in meant)
        remedy = f"uninstall one, or leave one out: {' or '.join(f'--no-plugin {name}' for name in names)}"
    return PluginError(
        f"plugin name {wish.plugin!r} is claimed by {' and by '.join(map(str, meant))}",
        where=wish.because,
        why="which of them acts must not depend on the order of installation",
        remedy=remedy,
    )


def _words(plugin: PluginInfo) -> tuple[str, str, str]:
    """The words that exclude a plugin."""
    return plugin.name, plugin.id, plugin.distribution
