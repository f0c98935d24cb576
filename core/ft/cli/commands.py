"""Commands of plugins: entry points of the group ``ft.commands``, found by metadata and imported when called."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ft.cli.guard import guarded

GROUP = "ft.commands"


class WithPlugins(TyperGroup):
    """The commands of ft, and after them those of plugins; a plugin cannot take the name of one of ft's."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(self._installed(ctx).keys() - self.commands.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What help and completion show of a command; a plugin is not imported for that."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._installed(ctx):
            return own
        return TyperCommand(cmd_name, help=f"Added by {self._installed(ctx)[cmd_name]}; see `ft {cmd_name} --help`.")

    def _installed(self, ctx: Any) -> dict[str, str]:
        """The names of commands, each with its distribution; looked up once."""
        if GROUP not in ctx.meta:
            ctx.meta[GROUP] = _names()
        found: dict[str, str] = ctx.meta[GROUP]
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to call: of a plugin, the real one."""
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        try:
            command = load(name)
        except Exception as error:
            from ft.cli.report import report

            raise typer.Exit(report(error)) from error
        return super().resolve_command(ctx, args) if command is None else (name, command, args[1:])


def _names() -> dict[str, str]:
    """Read from ``entry_points.txt`` as it lies there: importing importlib.metadata would double what help costs.

    Help must not fail because some metadata is damaged; calling such a command says what is wrong.
    """
    found: dict[str, str] = {}
    for folder in dict.fromkeys(sys.path):
        for path in Path(folder).glob("*.dist-info/entry_points.txt"):
            with suppress(OSError, UnicodeDecodeError):
                distribution = path.parent.name.partition("-")[0].replace("_", "-")
                found |= dict.fromkeys(_section(path.read_text(encoding="utf-8")), distribution)
    return found


def _section(text: str) -> list[str]:
    """The names in the section of commands."""
    _, _, rest = text.partition(f"[{GROUP}]")
    lines = rest.partition("\n[")[0].splitlines()
    return [name.strip() for name, equals, _ in (line.partition("=") for line in lines) if equals]


def load(name: str) -> Any:
    """The command that a plugin calls ``name``; ``None`` if there is none.

    Raises:
        PluginError: two distributions claim the name, the module cannot be imported, or it holds no function.
        EnvironmentProblem: a package is missing.
    """
    from ft.errors import PluginError
    from ft.plugins import disabled_plugins, find_plugins
    from ft.plugins.loading import import_plugin

    out = set(disabled_plugins(os.environ))
    found = [info for info in find_plugins().commands if info.name == name]
    found = [info for info in found if not out & {info.name, info.id, info.distribution}]
    if not found:
        return None
    info, *others = found
    if others:
        raise PluginError(
            f"the command {name!r} is claimed by {' and '.join(map(str, found))}",
            remedy=f"leave one out: FT_DISABLE_PLUGINS={info.distribution}",
        )
    function = import_plugin(info)
    if not callable(function):
        raise PluginError(
            f"plugin {info} holds no function",
            where=info.value,
            why=f"an entry point of {GROUP} is module:function",
            remedy=f"report it to the authors of {info.distribution}",
        )
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name)(guarded(_blamed(info, function)))
    return typer.main.get_command(single)


def _blamed(info: Any, function: Callable[..., Any]) -> Callable[..., None]:
    """The function, with the plugin named for what it did not raise on purpose."""
    from ft.plugins.blame import blame

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        with blame(info, f"ft {info.name}"):
            function(*args, **kwargs)

    return call
