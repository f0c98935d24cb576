"""Commands of plugins: entry points of the group ``ft.commands``, found by metadata and imported when called."""

from collections.abc import Callable
from functools import wraps
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
        return TyperCommand(cmd_name, help=f"A command of {self._installed(ctx)[cmd_name]}, which says more itself.")

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
    """Help must not fail because some metadata is damaged; calling such a command says what is wrong."""
    try:
        from importlib.metadata import entry_points

        return {entry.name: getattr(entry.dist, "name", "a plugin") for entry in entry_points(group=GROUP)}
    except Exception:
        return {}


def load(name: str) -> Any:
    """The command that a plugin calls ``name``; ``None`` if there is none.

    Raises:
        PluginError: two distributions claim the name, the module cannot be imported, or it holds no function.
        EnvironmentProblem: a package is missing.
    """
    import os

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
