"""What ``ft doctor`` looks at. Each check yields findings; none of them imports torch or a plugin in this process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import ft
from ft.cli.probe import outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from packaging.requirements import Requirement

    from ft_hookspecs import PluginInfo

DISTRIBUTION: Final = "ft-framework"
OUR_FOLDER: Final = Path(ft.__file__).resolve().parent
LOW_DISK, LITTLE_DISK = 1e9, 20e9  # bytes: not one small checkpoint fits; a 7B model does not fit

Status = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One thing that was looked at; ``remedy`` is what to type when it is not ``ok``, or what an extra would take."""

    topic: str
    status: Status
    message: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Every check in order; one that breaks is a finding itself."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:
            yield Finding(check.__name__, "fail", f"the check broke: {type(error).__name__}: {error}")


def environment() -> Iterator[Finding]:
    """Python, the machine, and which variables speak to ft (names only: a value may be a secret)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB memory"
    yield Finding("environment", "ok", f"Python {platform.python_version()} ({sys.executable})")
    yield Finding("environment", "ok", machine)
    if names := sorted(name for name in os.environ if name.startswith(("FT_", "HF_", "CUDA_VISIBLE"))):
        yield Finding("environment", "ok", f"set: {', '.join(names)}")


def installation() -> Iterator[Finding]:
    """Whether ``ft`` is this project, as a module and as a command: an unrelated distribution has the name ``ft``."""
    yield Finding("installation", "ok", f"ft {ft.__version__} ({OUR_FOLDER})")
    yield from _other_distribution()
    yield from _other_module()
    yield _command()


def _other_distribution() -> Iterator[Finding]:
    if version := _version("ft"):
        yield Finding(
            "installation",
            "fail",
            f"the distribution 'ft' {version} is installed: an unrelated package that ships its own ft/ module",
            f"pip uninstall ft && pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )


def _other_module() -> Iterator[Finding]:
    """What a program started in this folder would import; the folder comes first on its path."""
    ask = [sys.executable, "-c", "import ft; print(ft.__file__)"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=60)
    found = answer.stdout.strip() or (answer.stderr.strip().splitlines() or ["nothing"])[-1]
    if Path(found).resolve().parent != OUR_FOLDER:
        yield Finding(
            "installation",
            "fail",
            f"'import ft' in {Path.cwd()} finds {found}",
            "rename that module, or work in another folder",
        )


def _command() -> Finding:
    on_path = shutil.which("ft")
    if on_path is None:
        return Finding("installation", "warn", "no command 'ft' on PATH", f"use {sys.executable} -m ft, or add to PATH")
    if Path(on_path).resolve() not in _own_commands():
        remedy = f"put {Path(sys.executable).parent} first on PATH, or use {sys.executable} -m ft"
        return Finding(
            "installation", "fail", f"the command 'ft' on PATH is {on_path}, of another installation", remedy
        )
    return Finding("installation", "ok", f"the command 'ft' is {on_path}")


def _own_commands() -> set[Path]:
    """Where pip put the command of this installation."""
    files = metadata.files(DISTRIBUTION) or []
    return {Path(str(file.locate())).resolve() for file in files if file.name in ("ft", "ft.exe")}


def packages() -> Iterator[Finding]:
    """Each package that ft requires against its range, then each extra."""
    from packaging.requirements import Requirement

    required = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    for requirement in required:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        optional = [one for one in required if one.marker and not one.marker.evaluate({"extra": ""})]
        members = [one for one in optional if one.marker and one.marker.evaluate({"extra": extra})]
        members = [one for one in members if one.name != DISTRIBUTION]
        if extra != "dev":
            yield _extra(extra, members)


def _package(requirement: Requirement) -> Finding:
    version = _version(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    if version is None:
        return Finding("packages", "fail", f"{requirement.name} is not installed", f"pip install '{wanted}'")
    if not requirement.specifier.contains(version, prereleases=True):
        message = f"{requirement.name} {version} is outside {requirement.specifier}"
        return Finding("packages", "fail", message, f"pip install '{wanted}'")
    return Finding("packages", "ok", f"{requirement.name} {version}")


def _extra(extra: str, members: list[Requirement]) -> Finding:
    """An extra that is not there is no fault; one that is there in a version that does not work is."""
    remedy = f"pip install '{DISTRIBUTION}[{extra}]'"
    each = [_package(member) for member in members]
    if all(finding.status == "ok" for finding in each):
        return Finding("packages", "ok", f"extra {extra} (optional): {', '.join(finding.message for finding in each)}")
    wrong = [finding.message for finding in each if finding.status == "fail"]
    absent = any(_version(member.name) is None for member in members)
    return Finding("packages", "ok" if absent else "warn", f"extra {extra} (optional): {', '.join(wrong)}", remedy)


def devices() -> Iterator[Finding]:
    """What a run would compute on; a device that the installed torch cannot use is worth a word."""
    from ft.devices import devices as find_devices

    found = find_devices()
    if found.gpus and not found.cuda:
        yield Finding("devices", "warn", found.description, "install a CUDA build of torch: https://pytorch.org")
    else:
        yield Finding("devices", "ok", found.description)


def disk() -> Iterator[Finding]:
    """Room where a run writes: the working folder, ft's cache and that of downloaded models."""
    from ft.options import cache_folder

    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for name, folder in (("working folder", Path.cwd()), ("cache", cache_folder()), ("model downloads", hub)):
        yield _room(name, folder)


def _room(name: str, folder: Path) -> Finding:
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(present).free
    message = f"{name} {folder}: {free / 1e9:.1f} GB free"
    if not os.access(present, os.W_OK):
        return Finding("disk", "fail", f"{name} {folder} cannot be written to", "set FT_CACHE_DIR or HF_HOME, or cd")
    status: Status = "fail" if free < LOW_DISK else "warn" if free < LITTLE_DISK else "ok"
    return Finding("disk", status, message, "" if status == "ok" else "free some space, or set FT_CACHE_DIR or HF_HOME")


def plugins() -> Iterator[Finding]:
    """Each installed plugin, imported in a process apart, and metadata of plugins that cannot be read."""
    from ft.plugins import find_plugins, find_selectors

    for info, outcome in outcomes():
        if outcome.lacks:  # no fault until it is selected
            yield Finding("plugins", "ok", f"{info.id} cannot be selected here: {outcome.blame}", outcome.remedy)
        elif outcome.blame:
            remedy = f"pip install --upgrade {info.distribution}, or pip uninstall {info.distribution}"
            yield Finding("plugins", "fail", f"{info.id}: {outcome.blame}", outcome.remedy or remedy)
        else:
            yield Finding("plugins", "ok", f"{info.id} ({info.distribution} {info.version})")
    found = find_plugins()
    for broken in found.broken:
        yield Finding("plugins", "fail", f"{broken.distribution}: {broken.why}", f"pip uninstall {broken.distribution}")
    yield from _commands(found.commands)
    find_selectors()


def _commands(commands: Iterable[PluginInfo]) -> Iterator[Finding]:
    """A command of a plugin that never gets to be called."""
    from ft.cli.app import app

    taken = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    taken |= {group.name for group in app.registered_groups if group.name}
    for info in commands:
        if info.name in taken:
            remedy = f"report it to the authors of {info.distribution}"
            yield Finding(
                "plugins",
                "warn",
                f"{info.id} of {info.distribution} is hidden by ft's own command of that name",
                remedy,
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


CHECKS: Final[tuple[Callable[[], Iterator[Finding]], ...]] = (
    environment,
    installation,
    packages,
    devices,
    disk,
    plugins,
)
