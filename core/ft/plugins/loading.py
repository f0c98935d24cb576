"""Import one selected plugin; whatever goes wrong is said in terms of the plugin."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, requires
from typing import TYPE_CHECKING, Any

from ft.errors import EnvironmentProblem, FtError, PluginError
from ft.plugins.blame import at_fault, described, module_of, place
from ft.plugins.in_house import import_file, is_file, is_in_house

if TYPE_CHECKING:
    from ft_hookspecs import PluginInfo


def import_plugin(plugin: PluginInfo) -> object:
    """The plugin's module, or the object in it that its entry point names (``module:object``).

    Raises:
        PluginError: the import failed; chained from the error of the import.
        EnvironmentProblem: a package is missing that the plugin's ``ft_requires`` declares.
    """
    try:
        if is_in_house(plugin) and is_file(plugin.value):
            loaded: object = import_file(plugin.value)
        else:
            loaded = EntryPoint(plugin.name, plugin.value, f"ft.{plugin.kind}").load()
    except (KeyboardInterrupt, MemoryError, FtError):
        raise
    except ModuleNotFoundError as error:
        raise _missing_module(plugin, error) from error
    except BaseException as error:  # SystemExit too: importing a plugin must not end the program without a word
        raise at_fault(plugin, "cannot be imported", error) from error
    check_requirements(plugin, loaded)
    return loaded


def attribute(plugin: PluginInfo, loaded: object, name: str) -> Any:
    """What the plugin, or else the module it stands in, states as ``name``; ``None`` when neither does."""
    return getattr(loaded, name, getattr(sys.modules.get(module_of(plugin)), name, None))


def check_requirements(plugin: PluginInfo, loaded: object) -> None:
    """Every package in ``ft_requires`` (import name → what to type to get it) can be imported; none is.

    Raises:
        EnvironmentProblem: one cannot, with the remedy that the plugin states.
    """
    required: Mapping[str, str] = attribute(plugin, loaded, "ft_requires") or {}
    for package, remedy in required.items():
        if not _is_importable(package.partition(".")[0]):
            raise _missing_package(plugin, package, remedy)


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # imported already, by someone who left it without a spec
        return True


def _missing_package(plugin: PluginInfo, package: str, remedy: str) -> EnvironmentProblem:
    problem = EnvironmentProblem(
        f"plugin {plugin} needs the package {package!r}, which is not installed", where=plugin.value, remedy=remedy
    )
    problem.plugin = plugin
    return problem


def _missing_module(plugin: PluginInfo, error: ModuleNotFoundError) -> FtError:
    """A missing package, with the command that installs it; or a plugin that is not where its entry point says."""
    missing = (error.name or "").partition(".")[0]
    declared = _declared_before(error, missing)
    if declared:
        return _missing_package(plugin, missing, declared)
    blamed = PluginError(f"plugin {plugin} cannot be imported: {described(error)}", where=place(error, plugin))
    blamed.plugin = plugin
    if missing == module_of(plugin).partition(".")[0]:
        blamed.why = f"there is no module {error.name!r}"
        blamed.remedy = (
            "correct the name; the module must be importable (PYTHONPATH=. for the current directory)"
            if is_in_house(plugin)
            else f"reinstall it: pip install --force-reinstall --no-deps {plugin.distribution}"
        )
    else:
        blamed.remedy = f"pip install {_requirement(plugin, missing)}"
    return blamed


def _declared_before(error: ModuleNotFoundError, package: str) -> str:
    """The remedy in an ``ft_requires`` that stands above the failing import."""
    trace = error.__traceback__
    while trace is not None:
        required = trace.tb_frame.f_globals.get("ft_requires")
        if isinstance(required, Mapping) and package in required:
            return str(required[package])
        trace = trace.tb_next
    return ""


def _requirement(plugin: PluginInfo, package: str) -> str:
    """What the plugin's own metadata asks for under that name, quoted for a shell; else the name itself."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        stated = [Requirement(line) for line in requires(plugin.distribution) or ()]
    except (PackageNotFoundError, ValueError):
        stated = []
    for requirement in stated:
        if canonicalize_name(requirement.name) == canonicalize_name(package):
            requirement.marker = None
            return f"'{requirement}'"
    return canonicalize_name(package)
