"""`ft doctor`: each finding with its remedy; a broken plugin is one line; 5 when something fails."""

import json
import os
import sys
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from ft.cli import checks, doctor, probe
from ft.cli.checks import Finding
from ft.devices import Devices, Gpu
from ft.testing import FakeDistribution


def of(check):
    return list(check())


@pytest.fixture
def findings(monkeypatch):
    """Make `ft doctor` find these, and nothing else."""

    def make(*found):
        monkeypatch.setattr(checks, "CHECKS", (lambda: iter(found),))

    return make


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 5)])
def test_exit_code_and_text(ft, findings, status, code):
    findings(Finding("disk", "ok", "room"), Finding("devices", status, "a thing", "pip install it"))
    result = ft("doctor")
    assert result.exit_code == code
    assert result.stderr == ""
    assert f"  {status.ljust(4)}  a thing\n        pip install it\n" in result.stdout
    assert "\x1b" not in result.stdout


def test_json(ft, findings):
    findings(Finding("disk", "fail", "no room", "free some"))
    result = ft("doctor", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout) == [
        {"topic": "disk", "status": "fail", "message": "no room", "remedy": "free some"}
    ]


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(monkeypatch):
    def broken():
        raise RuntimeError("out of order")
        yield

    monkeypatch.setattr(checks, "CHECKS", (broken, lambda: iter([Finding("disk", "ok", "room")])))
    first, second = checks.findings()
    assert (first.topic, first.status) == ("broken", "fail")
    assert "RuntimeError: out of order" in first.message
    assert second.message == "room"


def test_colours_are_for_every_status():
    assert set(doctor.COLOURS) == {"ok", "warn", "fail"}


def test_values_of_variables_are_not_shown(monkeypatch):
    monkeypatch.setenv("FT_HF_HUB_TOKEN", "hf_verysecret")
    text = str(of(checks.environment))
    assert "FT_HF_HUB_TOKEN" in text
    assert "verysecret" not in text


# ---- packages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """Pretend which versions are installed, and what ft requires."""

    def make(required, versions):
        extras = Message()
        for extra in ("plot", "dev"):
            extras["Provides-Extra"] = extra
        monkeypatch.setattr(checks.metadata, "requires", lambda name: required)
        monkeypatch.setattr(checks.metadata, "metadata", lambda name: extras)
        monkeypatch.setattr(checks, "_version", versions.get)

    return make


def test_packages_against_their_ranges(installed):
    required = ["torch>=2.10", "transformers>=5.9,<6", "numpy>=2.0", "old>=1; python_version < '3'"]
    installed(required, {"torch": "2.9.1+cu128", "transformers": "5.23.0"})
    torch, transformers, numpy, plot = of(checks.packages)
    assert torch == Finding("packages", "fail", "torch 2.9.1+cu128 is outside >=2.10", "pip install 'torch>=2.10'")
    assert (transformers.status, transformers.message) == ("ok", "transformers 5.23.0")
    assert numpy == Finding("packages", "fail", "numpy is not installed", "pip install 'numpy>=2.0'")
    assert plot.message.startswith("extra plot")


@pytest.mark.parametrize(
    ("version", "status", "remedy"),
    [
        ("3.10", "ok", ""),
        (None, "ok", "pip install 'ft-framework[plot]'"),
        ("3.1", "warn", "pip install 'ft-framework[plot]'"),
    ],
)
def test_extras(installed, version, status, remedy):
    installed(["matplotlib>=3.9; extra == 'plot'", "pytest; extra == 'dev'"], {"matplotlib": version})
    (finding,) = of(checks.packages)
    assert (finding.status, finding.remedy) == (status, remedy)
    assert "matplotlib" in finding.message


def test_the_floors_of_torch_and_transformers_are_checked_here():
    """What the metadata of this installation asks for, not a copy of it."""
    messages = [finding.message for finding in of(checks.packages)]
    assert any(message.startswith("torch 2.") for message in messages)
    required = {one.name: one.specifier for one in map(Requirement, checks.metadata.requires("ft-framework"))}
    assert not required["torch"].contains("2.9.1")
    assert not required["transformers"].contains("5.8.0")


# ---- the right ft -------------------------------------------------------------------------------------------------


def test_the_unrelated_distribution_is_named(tmp_path, monkeypatch):
    FakeDistribution("ft", version="0.3").install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = checks._other_distribution()
    assert finding.status == "fail"
    assert "'ft' 0.3" in finding.message
    assert finding.remedy.startswith("pip uninstall ft && ")


def test_another_module_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(checks._other_module()) == []
    (tmp_path / "ft.py").write_text("")
    (finding,) = checks._other_module()
    assert finding.status == "fail"
    assert str(tmp_path / "ft.py") in finding.message


def test_another_command_on_the_path_is_found(tmp_path, monkeypatch):
    ours = tmp_path / "ours" / "ft"
    other = tmp_path / "other" / "ft"
    for command in (ours, other):
        command.parent.mkdir()
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
    monkeypatch.setattr(checks, "_own_commands", lambda: {ours})
    monkeypatch.setenv("PATH", f"{ours.parent}{os.pathsep}{other.parent}")
    assert checks._command().status == "ok"
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{ours.parent}")
    finding = checks._command()
    assert (finding.status, str(other) in finding.message) == ("fail", True)
    assert f"{sys.executable} -m ft" in finding.remedy
    monkeypatch.setenv("PATH", "")
    assert checks._command().status == "warn"


def test_the_own_command_is_known():
    assert Path(sys.executable).parent.resolve() / "ft" in checks._own_commands()


# ---- devices and disk ---------------------------------------------------------------------------------------------


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch):
    gpu = Gpu("T4", "GPU-1", (7, 5), 1)
    for cuda, status in ((0, "warn"), (1, "ok")):
        monkeypatch.setattr("ft.devices.devices", lambda cuda=cuda: Devices(cuda, False, True, "1 x T4", (gpu,)))
        assert of(checks.devices)[0].status == status


@pytest.mark.parametrize(("free", "status"), [(5e8, "fail"), (5e9, "warn"), (5e10, "ok")])
def test_disk_space_where_a_run_writes(tmp_path, monkeypatch, free, status):
    monkeypatch.setenv("FT_CACHE_DIR", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = of(checks.disk)
    assert [finding.status for finding in found] == [status] * 3
    assert any(str(tmp_path / "not") in finding.message for finding in found)
    assert all(bool(finding.remedy) is (status != "ok") for finding in found)


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    finding = checks._room("cache", tmp_path)
    assert (finding.status, "cannot be written" in finding.message) == ("fail", True)


# ---- plugins ------------------------------------------------------------------------------------------------------


def install(folder, monkeypatch, **sources):
    """Plugins that child processes see too."""
    modules = {f"{name}_plugin.py": source for name, source in sources.items()}
    points = {"ft.plugins": {name: f"{name}_plugin" for name in sources}}
    FakeDistribution("ft-zoo", points, modules, version="4.2").install(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


FINE = "from ft_hookspecs import hookimpl\n@hookimpl\ndef ft_run_finished(run): pass\n"


def test_every_kind_of_broken_plugin_is_one_line_and_hurts_no_other(tmp_path, monkeypatch):
    install(
        tmp_path,
        monkeypatch,
        a_raises="raise RuntimeError('out of order')",
        b_exits="import sys; sys.exit(3)",
        c_dies="import os; os._exit(9)",
        d_prints="print('[noise]')\n" + FINE,
        e_misspelt=FINE.replace("ft_run_finished", "ft_run_finnished"),
        f_missing="import not_installed_anywhere",
        g_lacks="ft_requires = {'not_installed_anywhere': 'pip install it'}\n" + FINE,
        h_fine=FINE,
    )
    found = {
        finding.message.split()[0].rstrip(":").removeprefix("plugins:"): finding
        for finding in of(checks.plugins)
        if "plugins:" in finding.message
    }
    assert {name: finding.status for name, finding in found.items() if name != "ask"} == {
        "a_raises": "fail",
        "b_exits": "fail",
        "c_dies": "fail",
        "d_prints": "ok",
        "e_misspelt": "fail",
        "f_missing": "fail",
        "g_lacks": "ok",
        "h_fine": "ok",
    }
    assert "out of order" in found["a_raises"].message
    assert "ended the process with code 9" in found["c_dies"].message
    assert "ft_run_finished" in str(found["e_misspelt"])
    assert found["g_lacks"].remedy == "pip install it"
    assert all(finding.remedy for finding in found.values() if finding.status == "fail")
    assert not any("\n" in finding.message for finding in found.values())


def test_a_plugin_that_hangs_is_named(tmp_path, monkeypatch):
    from ft.plugins import find_plugins

    install(tmp_path, monkeypatch, hangs="import time; time.sleep(600)")
    place = [info.name for info in find_plugins()].index("hangs")
    assert probe._try_from(place, seconds=3) == ([], "not imported after 3 s")


def test_an_unreadable_distribution_is_a_finding(no_discovery, fake_plugin, monkeypatch):
    monkeypatch.setattr(checks, "outcomes", lambda: iter(()))
    fake_plugin("other", kind="logger", distribution="ft-three")
    (finding,) = of(checks.plugins)
    assert (finding.status, finding.message.split(":")[0]) == ("fail", "ft-three")
