"""What takes plugins out: ``--no-plugin`` and ``FT_DISABLE_PLUGINS``, each as strong as the place it stands in.

As for values, the command line goes before the environment and the environment before the file. A plugin that the file
asks for and the command line takes out is out; one that both ask for and take out in the same place is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ft.options import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ft_hookspecs import PluginInfo

FLAG: Final = "--no-plugin"
VARIABLE: Final = "FT_DISABLE_PLUGINS"
RANKS: Final = {"command line": 2, "environment": 1}
"""How strong a place is; those that are not here, the file and defaults, are 0."""
COMMAND_LINE: Final = RANKS["command line"]
NEEDED: Final = ("stages", "adapters", "quantizers", "models")
"""Kinds that a key chooses one of: without that one, the run would train something else than the key says."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A word that takes out every plugin of that name, ``kind:name`` or distribution."""

    word: str
    place: str = FLAG
    rank: int = COMMAND_LINE

    def names(self, plugin: PluginInfo) -> bool:
        """Whether it means this plugin."""
        return self.word in names_of(plugin)

    def __str__(self) -> str:
        return f"{self.place}{' ' if self.place == FLAG else '='}{self.word}"


def exclusions(words: Iterable[str], environ: Mapping[str, str]) -> tuple[Exclusion, ...]:
    """What the words of ``--no-plugin`` and the variable take out."""
    variable = (Exclusion(word, VARIABLE, RANKS["environment"]) for word in disabled_plugins(environ))
    return (*map(Exclusion, words), *variable)


def disabled_plugins(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What ``FT_DISABLE_PLUGINS`` names: a comma-separated list of names, ``kind:name`` or distributions."""
    return tuple(listed(environ.get(VARIABLE, "")))


def names_of(plugin: PluginInfo) -> tuple[str, str, str]:
    """The words that mean a plugin."""
    return plugin.name, plugin.id, plugin.distribution
