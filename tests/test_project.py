"""The project as a whole: its layout, its wheel, its pins, and what must not stand in it."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ft

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {"core": "ft", "hookspecs": "ft_hookspecs", "plugins": "ft_plugins"}
LONGEST_MODULE = 500
# Written in two halves, so that this file does not hold them.
FORBIDDEN = ("/wo" + "rk/", "sha" + "red/", "pypi." + "org", "pythonhos" + "ted", "download.py" + "torch.org")


def sources() -> list[Path]:
    """The files of the project: tracked, or not ignored; all of them where there is no git."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = done.stdout.splitlines() if done.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


SOURCES = sources()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in exact}


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    tested = ("dev", "plot", "tensorboard", "trl")
    stated = [*PROJECT["project"]["dependencies"], *(line for extra in tested for line in extras[extra])]
    return [requirement for requirement in map(Requirement, stated) if requirement.name != "ft-framework"]


@pytest.mark.parametrize(("root", "package"), PACKAGES.items())
def test_a_root_holds_one_typed_package(root: str, package: str) -> None:
    assert (ROOT / root / package / "py.typed").is_file()
    assert not (ROOT / root / "__init__.py").exists()
    assert [path.name for path in (ROOT / root).iterdir() if path.is_dir() and path.name != "__pycache__"] == [package]


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    roots = [ROOT / root for root in PACKAGES]
    wanted = {str(path.relative_to(root)) for root in roots for path in SOURCES if path.is_relative_to(root)}
    assert packed == wanted


def test_entry_points_name_modules_that_exist() -> None:
    for group, points in PROJECT["project"]["entry-points"].items():
        assert group.startswith("ft.")
        for value in points.values():
            path = ROOT / "plugins" / value.partition(":")[0].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), value


def test_every_plugin_module_is_published() -> None:
    """Or, when its name is private, its hooks are brought in by a module that is."""
    published = {value for points in PROJECT["project"]["entry-points"].values() for value in points.values()}
    root = ROOT / "plugins"
    modules = [path for path in SOURCES if path.is_relative_to(root) and path.suffix == ".py"]
    with_hooks = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in modules
        if "\n@hookimpl" in path.read_text(encoding="utf-8")
    }
    for module in with_hooks - published:
        package, _, name = module.rpartition(".")
        users = [path for path in (root / package.replace(".", "/")).glob("*.py") if name in path.read_text("utf-8")]
        assert name.startswith("_")
        assert {f"{package}.{path.stem}" for path in users} & published, module


def test_every_module_of_the_core_is_public_or_forbidden_to_plugins() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("Public modules")[2]
    listed = re.findall(r"`ft\.(\w+)`", page)
    public = set(listed[: listed.index("testing") + 1])
    forbidden = PROJECT["tool"]["importlinter"]["contracts"][1]["forbidden_modules"]
    modules = {path.stem for path in (ROOT / "core/ft").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {f"ft.{name}" for name in modules - public - {"__init__", "__pycache__"}} == set(forbidden)
    for page in ("CONTRIBUTING.md", "docs/plugins.md"):
        assert public <= set(re.findall(r"`ft\.(\w+)`", (ROOT / page).read_text("utf-8"))), page


def test_the_version_is_stated_once() -> None:
    assert distribution("ft-framework").version == ft.__version__
    assert f"## [{ft.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_pins_satisfy_the_ranges() -> None:
    pinned = pins()
    assert all(re.fullmatch(r"[\w.]+", version) for version in pinned.values()), "no local versions, no ranges"
    wrong = [
        str(requirement)
        for requirement in requirements()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert wrong == []


def test_the_pins_are_what_these_tests_run_on() -> None:
    differing = {
        requirement.name: found
        for requirement in requirements()
        if (found := distribution(requirement.name).version.split("+")[0])
        != pins()[canonicalize_name(requirement.name)]
    }
    assert differing == {}


def test_no_module_is_too_long() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in SOURCES if path.suffix == ".py"}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_nothing_tells_of_one_machine() -> None:
    found = []
    for path in SOURCES:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []
