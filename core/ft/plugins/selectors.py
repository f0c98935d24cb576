"""What maps configuration keys to plugins, so that the core need name none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.errors import PluginError
from ft.plugins.blame import blame
from ft.plugins.finding import find_plugins
from ft.plugins.loading import import_plugin
from ft_hookspecs import PluginInfo, PluginOptions, Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True)
class Selector:
    """A module of the group ``ft.selectors``: ``OPTIONS``, the keys that select, and ``select(values)``."""

    info: PluginInfo
    module: Any

    @property
    def options(self) -> type[PluginOptions]:
        """The model of the keys that select."""
        model: type[PluginOptions] = self.module.OPTIONS
        return model

    @property
    def owner(self) -> str:
        """The distribution that declares the keys."""
        return self.info.distribution

    def select(self, values: Mapping[str, Any]) -> tuple[Selection, ...]:
        """The plugins that ``values`` wish for.

        Raises:
            PluginError: the selector failed, or returned something other than selections.
        """
        with blame(self.info, "select"):
            wishes = tuple(self.module.select(values))
            if not all(isinstance(wish, Selection) for wish in wishes):
                raise TypeError(f"select must return Selection records, not {wishes!r:.80}")
        return wishes


def find_selectors(excluded: Collection[str] = ()) -> tuple[Selector, ...]:
    """Load every installed selector. They are light by contract and always active: a key must mean something.

    Args:
        excluded: names, ``selectors:name`` or distributions to leave out.

    Raises:
        PluginError: one cannot be imported, or lacks ``OPTIONS`` or ``select``.
    """
    found = find_plugins().selectors
    return tuple(_load(info) for info in found if not {info.name, info.id, info.distribution}.intersection(excluded))


def _load(info: PluginInfo) -> Selector:
    module: Any = import_plugin(info)
    model = getattr(module, "OPTIONS", None)
    if not (isinstance(model, type) and issubclass(model, PluginOptions) and callable(getattr(module, "select", None))):
        raise PluginError(
            f"selector {info} does not fit",
            where=info.value,
            why="it needs OPTIONS, a subclass of PluginOptions, and a function select(values)",
            remedy=f"report it to {info.distribution}, or leave it out: --no-plugin {info.distribution}",
        )
    return Selector(info, module)
