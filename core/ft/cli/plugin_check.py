"""``ft plugins check``: one plugin is loaded, verified, and put to the contract of its kind by pytest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from ft.config import gather
from ft.errors import EXIT_DONE, ConfigError, EnvironmentProblem, PluginError
from ft.plugins import PluginManager, find_plugins, select
from ft.testing.contracts import CLASSES
from ft_hookspecs import PluginInfo, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BY_KEY: Final = {"quantizers": "quantization_method"}
"""Kinds whose contract has no ``plugin``: the key that selects one."""

MODULE: Final = """from ft.testing.contracts import {contract}


class TestPlugin({contract}):
    plugin = {plugin!r}
    keys = {keys!r}
{own}"""

ROWS: Final = """
    def rows(self, logged):
        return None  # what this logger keeps, a test of its own must read
"""
"""For the contract of loggers, which asks for it."""


def check(name: str, kind: str, words: Sequence[str]) -> int:
    """Check a plugin, and return the exit code.

    Args:
        name: as for ``--plugin``.
        kind: of a plugin that is a module or a file; empty for one that is installed.
        words: ``key=value``: the plugin's keys, and attributes of its contract.

    Raises:
        PluginError: it is not installed, ambiguous or broken, or does not pass.
        EnvironmentProblem: a package is missing.
    """
    (info,) = select(find_plugins(), [Selection(name, "ft plugins check", kind)])
    PluginManager().load(info)
    typer.echo(f"{info}: its hooks, their parameters and its API version are right")
    contract = next((contract for contract, of in CLASSES.items() if of == info.kind), None)
    if contract is None:
        typer.echo(f"there is no contract for the kind {info.kind}" + ("; --kind says another" if not kind else ""))
        return EXIT_DONE
    if importlib.util.find_spec("pytest") is None:
        raise EnvironmentProblem("ft plugins check needs pytest", remedy="pip install pytest")
    if _pytest(source(info, contract, gather(None, words, {}).given())):
        raise PluginError(
            f"plugin {info} does not pass {contract}",
            where=info.value,
            remedy="see what failed above, and docs/plugins.md; keys that it needs are words: key=value",
        )
    return EXIT_DONE


def source(info: PluginInfo, contract: str, given: Mapping[str, Any]) -> str:
    """A test module with the contract of one plugin.

    Raises:
        ConfigError: the contract has attributes without a value.
    """
    from ft.testing import contracts

    kind = getattr(contracts, contract)
    attributes = kind.__annotations__.keys() - {"plugin", "keys"}
    own = {key: value for key, value in given.items() if key in attributes}
    if missing := sorted(key for key in attributes if key not in own and not hasattr(kind, key)):
        raise ConfigError(
            f"{contract} needs {', '.join(missing)}",
            why="they are bounds that the plugin promises",
            remedy=f"add {' '.join(f'{key}=…' for key in missing)}; docs/{info.kind}.md says what they mean",
        )
    chosen = {BY_KEY[info.kind]: info.name} if info.kind in BY_KEY else {}
    lines = [f"    {key} = {value!r}\n" for key, value in own.items()]
    keys = {**chosen, **{key: value for key, value in given.items() if key not in own}}
    text = MODULE.format(contract=contract, plugin=spelled(info), keys=keys, own="".join(lines))
    return text + ROWS if info.kind == "loggers" else text


def spelled(info: PluginInfo) -> str:
    """What selects the plugin from any folder: the path or module of an unpackaged one."""
    return info.name if info.version else info.value


def _pytest(module: str) -> int:
    """Run a test module by itself: with no configuration but its own, and none of the user's conftests."""
    with tempfile.TemporaryDirectory() as folder:
        path, settings = Path(folder) / "test_contract.py", Path(folder) / "pytest.ini"
        path.write_text(module, encoding="utf-8")
        settings.write_text("[pytest]\naddopts = -p ft.testing.pytest_plugin -p no:cacheprovider\n", encoding="utf-8")
        words = ["-c", str(settings), "--tb=short", "--disable-warnings", "--no-header", "-v", str(path)]
        environ = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
        return subprocess.run([sys.executable, "-m", "pytest", *words], env=environ, check=False).returncode
