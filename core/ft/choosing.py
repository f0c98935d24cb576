"""Which plugins do keys and flags choose, and what becomes of the keys that ask for one that is taken out?

``ft run config.yaml --no-plugin X`` must be the same run without X, not one with X's keys and nobody to read them: a
key whose value asks for X counts as not given, X is struck from a list that names it, and the options of X are passed
over. Each is noted with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ft.config import declared_keys, resolve, todays_name
from ft.plugins import candidates
from ft.plugins.exclusion import COMMAND_LINE, RANKS
from ft_hookspecs import Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ft.config import Settings
    from ft.config.given import Given
    from ft.plugins import Candidates, Exclusion, Found, Selector
    from ft_hookspecs import PluginInfo, PluginOptions

    Owned = tuple[type[PluginOptions], str]


@dataclass(frozen=True)
class Chooser:
    """What chooses plugins beside the settings: selectors with their keys, and the words of ``--plugin``."""

    base: Sequence[Owned]
    selectors: Sequence[Selector]
    flagged: Sequence[str]

    def wishes(self, settings: Settings) -> list[Selection]:
        """Every plugin that is asked for, in the order in which they act."""
        values = self.values(settings)
        asked = {**settings.given(), **values}
        wishes = [wish for selector in self.selectors for wish in selector.select(asked)]
        wishes += [Selection(name, f"plugins: {name}") for name in values.get("plugins") or ()]
        return wishes + [Selection(name, f"--plugin {name}") for name in self.flagged]

    def values(self, settings: Settings) -> Mapping[str, Any]:
        """The keys that choose, as far as they are right."""
        return resolve(settings, self.base, partial=True).values


@dataclass(frozen=True)
class Choice:
    """The chosen plugins, and the settings without what asks for those that are taken out."""

    settings: Settings
    plugins: Sequence[PluginInfo]
    candidates: Candidates
    notes: tuple[str, ...]

    def without_options(self, known: Collection[str]) -> Choice:
        """Also without the options of what is taken out, but for those in ``known``, which others declare too."""
        out = [(plugin, exclusion) for plugin in self.candidates.plugins if (exclusion := self.excluded(plugin))]
        notes: list[str] = []

        def stays(key: str, given: Given) -> bool:
            for plugin, exclusion in out if todays_name(key) not in known else ():
                if exclusion.rank > rank_of(given) and key in declared_keys(plugin.value.partition(":")[0]):
                    notes.append(f"{given.source}: {key} has no effect: {exclusion} takes {plugin.id} out")
                    return False
            return True

        levels = [{key: given for key, given in level.items() if stays(key, given)} for level in self.settings.levels]
        return replace(self, settings=replace(self.settings, levels=tuple(levels)), notes=(*self.notes, *notes))

    def excluded(self, plugin: PluginInfo) -> Exclusion | None:
        """What keeps a plugin out of this run."""
        return None if plugin in self.plugins else self.candidates.exclusion(plugin)


def choose(settings: Settings, chooser: Chooser, found: Found, excluded: Sequence[Exclusion]) -> Choice:
    """The plugins that are asked for and not taken out.

    Raises:
        PluginError: one cannot be had, is both asked for and taken out in one place, or cannot be done without.
    """
    wishes = chooser.wishes(settings)
    every = candidates(found, wishes, excluded, lambda wish: strength(settings, wish))
    every.select(wishes)  # what is wrong is said before anything is left out
    notes: dict[str, None] = {}
    while fresh := [note for note in _left_out(settings, every, wishes) if note[0] not in notes]:
        for note, wish in fresh:
            notes[note] = None
            settings = without(settings, chooser, wish)
        wishes = chooser.wishes(settings)
    plugins = every.select(wishes)
    notes |= {
        f"{exclusion} does not take {plugin.id} out: the command line asks for it": None
        for plugin in plugins
        if (exclusion := every.kept(plugin))
    }
    return Choice(settings, plugins, every, tuple(notes))


def _left_out(settings: Settings, every: Candidates, wishes: Sequence[Selection]) -> Iterator[tuple[str, Selection]]:
    for wish in wishes:
        if exclusion := every.taken_out(wish):
            place = given_to(settings, wish)
            what = f"{place.source}: {wish.because}" if place else wish.because
            yield f"{what} has no effect: {exclusion} takes {every.meant_by(wish)[0].id} out", wish


def strength(settings: Settings, wish: Selection) -> int:
    """The rank of the place that a wish stands in."""
    place = given_to(settings, wish)
    return rank_of(place) if place else COMMAND_LINE if wish.because.startswith("--") else 0


def rank_of(given: Given) -> int:
    """The rank of the place of a value."""
    return RANKS.get(given.source.kind, 0)


def given_to(settings: Settings, wish: Selection) -> Given | None:
    """The value that expresses a wish, which says its key and value; ``None`` for a default or a flag."""
    asking = wish.because.partition(":")[0]
    levels = reversed(settings.levels)
    return next((level[key] for level in levels for key in level if todays_name(key) == asking), None)


def without(settings: Settings, chooser: Chooser, wish: Selection) -> Settings:
    """The settings without what expresses the wish: an entry of a list, or the whole key."""
    asking, _, name = wish.because.partition(": ")
    value, place = chooser.values(settings).get(asking), given_to(settings, wish)
    levels = [{key: given for key, given in level.items() if todays_name(key) != asking} for level in settings.levels]
    if place and isinstance(value, list) and name in value:
        left = [entry for entry in value if entry != name]
        levels[-1][asking] = replace(place, value=left, text=None)
    return replace(settings, levels=tuple(levels))
