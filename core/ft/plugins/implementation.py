"""One hook of one plugin, called with the arguments that it declares, and blamed for what it does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ft.plugins.blame import blame
from ft.plugins.results import checked
from ft_hookspecs import PluginInfo, hookimpl

if TYPE_CHECKING:
    from ft.plugins.verification import HookFunction


@dataclass(frozen=True)
class Implementation:
    """A verified hook function and its owner."""

    info: PluginInfo
    hook: str
    function: HookFunction
    parameters: tuple[str, ...]
    rank: int = 0

    @property
    def name(self) -> str:
        """Unique among the implementations of a run."""
        return f"{self.info.id}.{self.hook}"

    def __call__(self, **arguments: Any) -> Any:
        """Call the function with those of the spec's arguments that it declares.

        What it hands out to be run later, a generator of rows or a reader of them, is blamed as well.

        Raises:
            PluginError: it raised, or returned what the spec does not allow.
        """
        values = {name: arguments[name] for name in self.parameters}
        with blame(self.info, self.hook):
            result = checked(self.info, self.hook, self.function(**values))
        if isinstance(result, Iterator):
            return self._blamed_iterator(result)
        return self._blamed_function(result) if self.hook == "ft_read_format" and callable(result) else result

    def _blamed_iterator(self, iterator: Iterator[Any]) -> Iterator[Any]:
        with blame(self.info, self.hook):
            yield from iterator

    def _blamed_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def reader(*values: Any) -> Any:
            with blame(self.info, self.hook):
                return function(*values)

        return reader

    def for_pluggy(self) -> SimpleNamespace:
        """A plugin of this one hook, unranked, for pluggy's relay."""

        @functools.wraps(self.function)
        def relayed(*values: Any) -> Any:
            return self(**dict(zip(self.parameters, values, strict=True)))

        return SimpleNamespace(**{self.hook: hookimpl(relayed, specname=self.hook)})
