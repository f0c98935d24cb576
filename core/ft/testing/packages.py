"""Plugins under test: at hand, pretended by a metadata folder, or built and installed as a real wheel, offline."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING

from ft.plugins import PluginManager
from ft_hookspecs import PluginInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class FakeDistribution:
    """What an installed distribution looks like to Python: modules, and a ``.dist-info`` folder beside them.

    Args:
        name: of the distribution, e.g. ``ft-sparse``.
        entry_points: group → name → value, e.g. ``{"ft.adapters": {"sparse": "sparse_plugin"}}``.
        modules: path relative to the folder → source, e.g. ``{"sparse_plugin.py": "…"}``; indentation is taken off.
        version: of the distribution.
        requires: requirements, as in ``Requires-Dist``.
    """

    name: str
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    version: str = "1.0"
    requires: tuple[str, ...] = ()

    def install(self, folder: Path) -> Path:
        """Write it into a folder of ``sys.path``, as an installer would.

        Returns:
            the ``.dist-info`` folder.
        """
        write_files(folder, self.modules)
        info = folder / f"{re.sub('[-_.]+', '_', self.name)}-{self.version}.dist-info"
        requirements = "".join(f"Requires-Dist: {requirement}\n" for requirement in self.requires)
        metadata = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n{requirements}"
        write_files(info, {"METADATA": metadata, "entry_points.txt": self._entry_points_text()})
        importlib.invalidate_caches()
        return info

    def _entry_points_text(self) -> str:
        groups = self.entry_points.items()
        return "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in groups
        )


def plugin_manager(*plugins: object, kind: str = "plugins") -> PluginManager:
    """A manager with modules or objects that need not be installed, verified and blamed as in a run.

    Raises:
        PluginError: one does not fit the contract.
    """
    manager = PluginManager()
    for plugin in plugins:
        module: str = getattr(plugin, "__name__", type(plugin).__module__)
        name = module.rpartition(".")[2] if inspect.ismodule(plugin) else type(plugin).__name__
        manager.add(PluginInfo(kind, name, module, "under test", ""), plugin)
    return manager


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write each ``files[relative path]``, its common indentation taken off, below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")


def build_wheel(folder: Path, files: Mapping[str, str]) -> Path:
    """Build the wheel of a hatchling project without a network.

    Args:
        folder: where the project is written; the wheel is made in its ``dist``.
        files: relative path → text, ``pyproject.toml`` (build backend ``hatchling``) among them.

    Raises:
        RuntimeError: hatchling refused, with what it said.
    """
    write_files(folder, files)
    _python("-m", "hatchling", "build", "--target", "wheel", "--directory", "dist", cwd=folder)
    return next((folder / "dist").glob("*.whl"))


def install_wheel(wheel: Path, target: Path) -> None:
    """Install a wheel into the folder ``target`` with pip, without a network and without its dependencies.

    Raises:
        RuntimeError: pip refused, with what it said.
    """
    options = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet")
    _python("-m", "pip", "install", *options, "--target", str(target), str(wheel), cwd=wheel.parent)
    importlib.invalidate_caches()


def _python(*arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
