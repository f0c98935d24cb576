"""``ft plugins``: what is installed, from metadata alone; and one plugin in full."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ft.cli.text import columns, echo_json, heading, paint
from ft.errors import ConfigError
from ft.plugins import PluginManager, find_plugins, select
from ft_hookspecs import KINDS, PluginInfo, Selection, specs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import PluginOptions


def show_all(kind: str, *, as_json: bool) -> None:
    """Print every installed plugin, or those of one kind; a name that two distributions claim is marked.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind and kind not in KINDS:
        raise ConfigError(f"there is no kind of plugin called {kind!r}", where="--kind", remedy=", ".join(KINDS))
    installed = find_plugins()
    found = [info for info in installed if kind in ("", info.kind)]
    claims = Counter(info.id for info in found)
    if as_json:
        rows = [{**described(info), "ambiguous": claims[info.id] > 1} for info in found]
        echo_json({"plugins": rows, "broken": [asdict(broken) for broken in installed.broken]})
        return
    for one in KINDS:
        if of_kind := [_row(info, claims[info.id]) for info in found if info.kind == one]:
            typer.echo(paint(one, "cyan"))
            columns(of_kind)
    for broken in installed.broken:
        typer.echo(f"{paint('cannot be used', 'red')}: {broken.distribution}: {broken.why}")


def _row(info: PluginInfo, claims: int) -> tuple[str, ...]:
    where = f"{info.distribution} {info.version}"
    return info.name, where, info.value + (f"  (claimed {claims} times: selecting it is refused)" if claims > 1 else "")


def described(info: PluginInfo) -> dict[str, Any]:
    """A plugin's metadata as JSON holds it."""
    return {
        "kind": info.kind,
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "entry_point": info.value,
    }


def show_one(name: str, *, as_json: bool) -> None:
    """Print where a plugin comes from, and the hooks and options read from it.

    Raises:
        PluginError: it is not installed, ambiguous or broken.
    """
    (info,) = select(find_plugins(), [Selection(name, "ft plugins show")], [])
    manager = PluginManager()
    manager.load(info)
    details = {**described(info), "file": _file(info), "hooks": _hooks(manager)}
    details["options"] = [option for model in _models(manager) for option in _options(model)]
    if as_json:
        echo_json(details)
    else:
        _print(details)


def _hooks(manager: PluginManager) -> list[str]:
    return [name for name in vars(specs) if name.startswith("ft_") and manager.implementers(name)]


def _file(info: PluginInfo) -> str | None:
    """The file of the plugin's module, which is loaded; an in-house plugin's value is its file."""
    module = info.value.partition(":")[0]
    return module if module.endswith(".py") else getattr(sys.modules.get(module), "__file__", None)


def _models(manager: PluginManager) -> Iterable[type[PluginOptions]]:
    return [model for _, model in manager.each("ft_options")]


def _options(model: type[PluginOptions]) -> Iterable[dict[str, Any]]:
    for key, schema in model.model_json_schema().get("properties", {}).items():
        field = model.model_fields[key]
        yield {
            "key": key,
            "type": _type(schema),
            "default": None if field.is_required() else field.get_default(call_default_factory=True),
            "required": field.is_required(),
            "description": field.description or "",
        }


def _type(schema: dict[str, Any]) -> str:
    """A property's type in words: ``integer``, ``"a" | "b"``, ``string | null``."""
    if "enum" in schema:
        return " | ".join(repr(choice) for choice in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    return str(schema.get("type", schema.get("const", "any")))


def _print(details: dict[str, Any]) -> None:
    typer.echo(f"{details['kind']}:{details['name']}")
    columns((key, details[key]) for key in ("distribution", "version", "entry_point", "file"))
    heading("hooks")
    for hook in details["hooks"]:
        typer.echo(f"  {hook}")
    if details["options"]:
        heading("options")
        columns(
            (option["key"], option["type"], _default(option), option["description"]) for option in details["options"]
        )


def _default(option: dict[str, Any]) -> str:
    return "required" if option["required"] else f"default {option['default']}"
