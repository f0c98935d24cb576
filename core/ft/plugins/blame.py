"""Who is at fault, and where: an error that leaves a plugin names it."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ft.errors import FtError, PluginError, Stopped
from ft.plugins.in_house import is_file, is_in_house, module_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import PluginInfo

LONGEST: Final = 1000
"""Characters of a foreign message that are shown: an error of ours fits one screen."""


@contextmanager
def blame(plugin: PluginInfo, hook: str) -> Iterator[None]:
    """Turn what escapes from a plugin's hook into a :class:`PluginError` that names both.

    An :class:`FtError` was raised on purpose and goes on as it is, with a note of the plugin. Out of memory, a signal
    and ctrl-C are nobody's fault and pass.
    """
    try:
        yield
    except FtError as error:
        if error.plugin is None:
            error.plugin = plugin
            error.add_note(f"raised by plugin {plugin} in {hook}")
        raise
    except (Exception, SystemExit) as error:
        if is_nobodys_fault(error):
            raise
        raise at_fault(plugin, f"failed in {hook}", error) from error


def is_nobodys_fault(error: BaseException) -> bool:
    """Whether the run's own handling of memory and signals is to see the error as it is."""
    # torch's class by name, because torch may not be imported here
    return isinstance(error, MemoryError | Stopped) or type(error).__name__ == "OutOfMemoryError"


def at_fault(plugin: PluginInfo, did: str, error: BaseException) -> PluginError:
    """The error for a plugin that ``did`` something it must not, placed at its own innermost line."""
    mender = "fix it there" if is_in_house(plugin) else f"report it to the authors of {plugin.distribution}"
    blamed = PluginError(
        f"plugin {plugin} {did}: {described(error)}",
        where=place(error, plugin),
        remedy=f"{mender}; --traceback shows the full traceback",
    )
    blamed.plugin = plugin
    return blamed


def described(error: BaseException) -> str:
    """``Type: message``, cut where it would fill the screen."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def place(error: BaseException, plugin: PluginInfo) -> str:
    """``file:line`` of the innermost frame inside the plugin's package, or what its entry point names."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = module_of(plugin).partition(".")[0]
    found = plugin.value
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def module_of(plugin: PluginInfo) -> str:
    """The name under which a plugin's module is imported."""
    if is_in_house(plugin) and is_file(plugin.value):
        return module_name(plugin.value)
    return plugin.value.partition(":")[0].partition("[")[0].strip()
