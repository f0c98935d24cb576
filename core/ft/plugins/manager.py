"""The plugins of one run: loaded, verified and called in the order of their selection.

One that marks a hook ``tryfirst`` or ``trylast``, such as a model source that takes any name, is called before or
after those that do not.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import pluggy

from ft.errors import FtError, PluginError
from ft.plugins.implementation import Implementation
from ft.plugins.loading import import_plugin
from ft.plugins.verification import HOOKS, verify
from ft_hookspecs import PROJECT_NAME, PluginInfo, specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def log_error(error: FtError) -> None:
    """Report an error that does not end the run."""
    logging.getLogger(__name__).error("%s", error)


class PluginManager:
    """Holds the selected plugins and calls their hooks, in the order in which they were loaded.

    Args:
        report: told of each plugin that :meth:`isolated` leaves out.
    """

    def __init__(self, report: Callable[[FtError], None] = log_error) -> None:
        self.report = report
        self._plugins: dict[PluginInfo, object] = {}
        self._implementations: dict[str, list[Implementation]] = {hook: [] for hook in HOOKS}
        self._pluggy = pluggy.PluginManager(PROJECT_NAME)
        self._pluggy.add_hookspecs(specs)

    @property
    def infos(self) -> tuple[PluginInfo, ...]:
        """The loaded plugins."""
        return tuple(self._plugins)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The relay of pluggy: ``manager.hook.ft_check(plan=plan)`` calls every plugin, with blame."""
        return self._pluggy.hook

    def load(self, info: PluginInfo) -> None:
        """Import a plugin, verify it and add it.

        Raises:
            PluginError: it cannot be imported, or does not fit the contract.
            EnvironmentProblem: it needs a package that is not installed.
        """
        self.add(info, import_plugin(info))

    def add(self, info: PluginInfo, plugin: object) -> None:
        """Verify a plugin that is at hand, a module or an object, and add it.

        Raises:
            PluginError: it does not fit the contract, or is there already.
        """
        if any(other.id == info.id for other in self._plugins):
            raise PluginError(f"plugin {info} is loaded already", remedy="select it once")
        hooks = verify(info, plugin, self._pluggy)
        self._plugins[info] = plugin
        for marked in hooks:
            parameters = tuple(inspect.signature(marked.function).parameters)
            self._insert(Implementation(info, marked.hook, marked.function, parameters, marked.rank))
        self._pluggy.check_pending()

    def _insert(self, new: Implementation) -> None:
        """Put an implementation behind those of its rank, and make pluggy's order the same: the last registered
        is called first there.
        """
        implementations = self._implementations[new.hook]
        for one in implementations:
            self._pluggy.unregister(name=one.name)
        implementations.append(new)
        implementations.sort(key=lambda one: one.rank)
        for one in reversed(implementations):
            self._pluggy.register(one.for_pluggy(), name=one.name)

    def implementers(self, hook: str) -> tuple[PluginInfo, ...]:
        """The plugins that implement a hook."""
        return tuple(implementation.info for implementation in self._implementations[hook])

    def call(self, info: PluginInfo, hook: str, **arguments: Any) -> Any:
        """Call the hook of one of its :meth:`implementers`."""
        return next(one for one in self._implementations[hook] if one.info == info)(**arguments)

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[PluginInfo, Any]]:
        """Call one implementation of a hook at a time, each when it is asked for, with its owner.

        All get the same arguments; for a chain, in which each works on what the one before returned, go through
        :meth:`implementers` and :meth:`call`.
        """
        for implementation in tuple(self._implementations[hook]):
            yield implementation.info, implementation(**arguments)

    def isolated(self, hook: str, **arguments: Any) -> None:
        """Call a hook whose failure must not end the run.

        A plugin that raises is reported once and its hook is left out of the rest of the run.
        """
        for implementation in tuple(self._implementations[hook]):
            try:
                implementation(**arguments)
            except FtError as error:
                self._implementations[hook].remove(implementation)
                self._pluggy.unregister(name=implementation.name)
                self.report(error)
