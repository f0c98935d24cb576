"""Callbacks that plugins give to the trainer: what they raise names them, and ends no run where they only log."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from ft.errors import FtError
from ft.plugins.blame import blame

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerCallback

    from ft.plugins.manager import PluginManager
    from ft_hookspecs import PluginInfo, Run

LOGGERS: Final = "loggers"
"""The kind whose failures do not end a run."""


def trainer_callbacks(run: Run, plugins: PluginManager) -> list[TrainerCallback]:
    """What ``ft_callbacks`` of all plugins gives.

    Raises:
        FtError: a plugin that is no logger failed to give them.
    """
    found: list[TrainerCallback] = []
    for info in plugins.implementers("ft_callbacks"):
        try:
            given = list(plugins.call(info, "ft_callbacks", run=run))
        except FtError as error:
            if info.kind != LOGGERS:
                raise
            plugins.report(error)
            continue
        found += [guarded(info, callback, plugins.report) for callback in given]
    return found


def guarded(info: PluginInfo, callback: TrainerCallback, report: Callable[[FtError], None]) -> TrainerCallback:
    """The callback with events that name the plugin when they fail; a logger's is reported once, and then silent."""
    failed: list[FtError] = []

    def guard(event: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(event)
        def call(*args: Any, **kwargs: Any) -> Any:
            if failed:
                return None
            try:
                with blame(info, event.__name__):
                    return event(*args, **kwargs)
            except FtError as error:
                if info.kind != LOGGERS:
                    raise
                failed.append(error)
                report(error)
            return None

        return call

    for name in dir(callback):
        if name.startswith("on_"):
            setattr(callback, name, guard(getattr(callback, name)))
    return callback
