"""Which plugins do the keys and flags of a run name?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ft.errors import PluginError, did_you_mean
from ft.plugins.exclusion import COMMAND_LINE, NEEDED, Exclusion, names_of
from ft.plugins.in_house import in_house_plugin, is_in_house, looks_in_house
from ft_hookspecs import KINDS, PluginInfo, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ft.plugins.finding import Found


def select(found: Found, selections: Sequence[Selection], excluded: Collection[str] = ()) -> list[PluginInfo]:
    """The plugins that ``selections`` name, in their order, each once; all of them said on the command line.

    Raises:
        PluginError: as for :meth:`Candidates.select`.
    """
    return candidates(found, selections, [Exclusion(word) for word in excluded]).select(selections)


def candidates(
    found: Found,
    selections: Sequence[Selection],
    excluded: Iterable[Exclusion] = (),
    rank: Callable[[Selection], int] = lambda _: COMMAND_LINE,
) -> Candidates:
    """All that the selections can mean, and how strongly each is asked for.

    Args:
        found: what is installed.
        selections: each by ``kind:name``, bare name, dotted module or path of a file. A file or module that one
            selection names can be meant by the bare name of another: ``stage: mine`` with ``--plugin lab/mine.py``.
        excluded: what takes plugins out.
        rank: of the place that a selection stands in; see :mod:`ft.plugins.exclusion`.

    Raises:
        PluginError: a selection or an exclusion names nothing.
    """
    in_house = {plugin: None for wish in selections if (plugin := _in_house(wish, found)) is not None}
    every = Candidates((*found, *in_house), tuple(excluded), found)
    every.check_excluded()
    for wish in selections:
        for plugin in () if wish.default else every.meant_by(wish):
            every.asked[plugin.value] = max(rank(wish), every.asked.get(plugin.value, 0))
    return every


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
class Candidates:
    """All that a name can mean, and what must not be used."""

    plugins: tuple[PluginInfo, ...]
    excluded: tuple[Exclusion, ...]
    found: Found
    asked: dict[str, int] = field(default_factory=dict)
    """The rank of the strongest place that asks for a plugin, by its entry point or file."""

    def select(self, selections: Iterable[Selection]) -> list[PluginInfo]:
        """The plugins that ``selections`` name, in their order, each once.

        A default (``Selection.default``) that is excluded is left out without a word, and so is what is
        :meth:`taken_out`.

        Raises:
            PluginError: a name is unknown, ambiguous, claimed twice, of another kind, or both selected and excluded.
        """
        chosen: list[PluginInfo] = []
        for wish in selections:
            plugin = self.resolve(wish)
            if plugin is not None:
                _add(chosen, plugin, wish)
        return chosen

    def resolve(self, wish: Selection) -> PluginInfo | None:
        """The one plugin a wish means; ``None`` when it is left out."""
        meant = self.meant_by(wish)
        allowed = [each for each in meant if not self.exclusion(each)] or [each for each in meant if self.kept(each)]
        if not allowed:
            if wish.default or self.taken_out(wish):
                return None
            raise self.refused(wish, meant[0])
        if len(allowed) > 1:
            raise _ambiguous(wish, allowed)
        return replace(allowed[0], kind=wish.kind) if is_in_house(allowed[0]) and wish.kind else allowed[0]

    def taken_out(self, wish: Selection) -> Exclusion | None:
        """What takes out all that a wish means: it stands in a stronger place, and the run can do without."""
        if wish.default or wish.kind in NEEDED:
            return None
        excluded = [(self.exclusion(plugin), self.asked.get(plugin.value, 0)) for plugin in self.meant_by(wish)]
        stronger = [exclusion for exclusion, asked in excluded if exclusion and exclusion.rank > asked]
        return stronger[0] if len(stronger) == len(excluded) else None

    def kept(self, plugin: PluginInfo) -> Exclusion | None:
        """What would take the plugin out, and does not: a stronger place asks for it."""
        exclusion = self.exclusion(plugin)
        return exclusion if exclusion and exclusion.rank < self.asked.get(plugin.value, 0) else None

    def refused(self, wish: Selection, plugin: PluginInfo) -> PluginError:
        """The error for what is excluded and cannot be left out."""
        exclusion = self.exclusion(plugin)
        assert exclusion
        if exclusion.rank > self.asked.get(plugin.value, 0):
            return PluginError(
                f"plugin {plugin} cannot be taken out",
                where=wish.because,
                why=f"{wish.because} chooses it, and without it the run would train something else",
                remedy=f"give {wish.because.partition(':')[0]} another value, or drop {exclusion}",
            )
        return PluginError(
            f"plugin {plugin} is both selected and taken out",
            where=wish.because,
            why=f"{wish.because} selects it, and {exclusion} stands in the same place",
            remedy="drop one of the two",
        )

    def exclusion(self, plugin: PluginInfo) -> Exclusion | None:
        """The strongest word that excludes this plugin."""
        naming = [exclusion for exclusion in self.excluded if exclusion.names(plugin)]
        return max(naming, key=lambda exclusion: exclusion.rank, default=None)

    def meant_by(self, wish: Selection) -> list[PluginInfo]:
        """The plugins of the right kind and name; an in-house one can be of any kind.

        Raises:
            PluginError: there is none.
        """
        if plugin := _in_house(wish, self.found):
            return [plugin]
        kind, name = _split(wish)
        meant = [
            plugin
            for plugin in self.plugins
            if plugin.name == name and (not kind or plugin.kind == kind or is_in_house(plugin))
        ]
        if not meant:
            raise self.unknown(wish)
        return meant

    def check_excluded(self) -> None:
        """A misspelt exclusion would leave in the plugin that it was meant for."""
        known = (*self.plugins, *self.found.selectors)
        for exclusion in self.excluded:
            if not any(exclusion.names(plugin) for plugin in known):
                words = {word for plugin in known for word in names_of(plugin)}
                raise PluginError(
                    f"no plugin or distribution is called {exclusion.word!r}, so it cannot be taken out",
                    where=exclusion.place,
                    remedy=did_you_mean(exclusion.word, words) or "see `ft plugins list` for what is installed",
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
