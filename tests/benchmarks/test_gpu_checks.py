"""The checks for a GPU run on a CPU at tiny sizes, so that the first run on a GPU does not end at a slip."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ft.devices import Devices, Gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"
H200 = Devices(1, True, True, "1 x NVIDIA H200", (Gpu("NVIDIA H200", "GPU-0", (9, 0), 150 * 10**9),))
STAND_INS = {"ok": "lambda place: {'figure': 1}", "sleeps": "lambda place: time.sleep(60)"}
HEAD = "import os, time\nfrom check import Check\n\n\ndef wrong(place):\n    raise AssertionError('2 is not 1')\n\n\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("topic", ["kernels", "quantizers", "speed", "memory"])
def test_every_check_runs(topic: str) -> None:
    words = [sys.executable, GPU / "run.py", "--dry-run", "--topic", topic]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| ok |" in done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of checks of its own."""
    for name in ("run.py", "check.py", "workers.py"):
        shutil.copy(GPU / name, tmp_path)
    return tmp_path


def checks_of(folder: Path, *lines: str) -> None:
    body = "".join(f"    yield Check({line})\n" for line in lines)
    (folder / "speed.py").write_text(f"{HEAD}def checks():\n{body}")


def test_a_check_that_fails_costs_one_row(folder: Path) -> None:
    checks_of(
        folder,
        "'fine', lambda place: {'figure': 1}",
        "'wrong', wrong, alone=True",
        "'broken', lambda place: 1 / 0",
        "'dies', lambda place: os._exit(9)",
        "'talks', lambda place: {'printed': print('noise')}",
        "'absent', wrong, needs=('no_such_package',)",
        "'for a GPU', wrong, gpu_only=True",
    )
    words = [sys.executable, folder / "run.py", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    table = done.stdout.partition("| --- |")[2]
    rows = {words[2].strip(): words[3:5] for row in table.splitlines() if len(words := row.split("|")) > 5}
    assert {name: status.strip() for name, (status, _) in rows.items()} == {
        "fine": "ok", "wrong": "WRONG", "broken": "FAILED", "dies": "FAILED", "talks": "ok",
        "absent": "not installed", "for a GPU": "needs a GPU",
    }  # fmt: skip
    assert "2 is not 1" in rows["wrong"][1]
    assert "ZeroDivisionError" in rows["broken"][1]
    assert "exit code 9" in rows["dies"][1]
    assert "no_such_package" in rows["absent"][1]


def test_a_topic_that_cannot_be_imported_costs_one_row(folder: Path) -> None:
    checks_of(folder, "'fine', lambda place: {'figure': 1}")
    (folder / "memory.py").write_text("import no_such_package\n")
    words = [sys.executable, folder / "run.py", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "| speed | fine | ok | figure 1 |" in done.stdout
    assert "| memory | its checks can be imported | FAILED | ModuleNotFoundError" in done.stdout


# ---- what only a machine with a GPU does, on one that is said to have one


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """run.py of that folder, in this process; its workers are processes as ever."""
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("run_of_the_gpu_checks", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "devices", lambda: H200)
    yield module
    for name in set(sys.modules) - before:
        if name in ("check", "workers") or name.startswith("gpu_"):
            del sys.modules[name]


@pytest.fixture
def rows(run: Any) -> Callable[[float], dict[str, dict[str, Any]]]:
    """The rows that come of the checks within some seconds."""

    def carry_out(seconds: float) -> dict[str, dict[str, Any]]:
        command = [sys.executable, str(Path(run.__file__)), "--worker", "--dry-run"]
        listed = [("speed", check) for check in run.checks("speed")]
        workers = run.Workers(command, ready=1)
        try:
            return {row["check"]: row for row in run.carried_out(listed, workers, time.monotonic() + seconds)}
        finally:
            workers.close()

    return carry_out


def test_a_check_that_hangs_is_killed_with_all_that_it_started(folder: Path, rows: Any) -> None:
    mark = folder / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    checks_of(
        folder,
        f"'hangs', lambda place: __import__('subprocess').run([{sys.executable!r}, '-c', {child!r}]), seconds=1",
        "'after', lambda place: {'figure': 1}, alone=True",
    )
    found = rows(60)
    assert found["hangs"]["status"] == "TIMEOUT"
    assert found["after"]["status"] == "ok"
    time.sleep(3)
    assert not mark.exists()


def test_the_time_for_everything_is_kept_and_what_matters_more_comes_first(folder: Path, rows: Any) -> None:
    checks_of(
        folder,
        "'late', lambda place: {'figure': 1}, late=True",
        "'needed', lambda place: time.sleep(60), alone=True",
    )
    found = rows(8)
    assert list(found) == ["needed", "late"]
    assert found["needed"]["status"] == "TIMEOUT"
    assert found["needed"]["seconds"] < 20
    assert found["late"]["status"] == "no time left"


def test_a_device_that_is_too_small_is_said(folder: Path, rows: Any) -> None:
    checks_of(folder, "'large', lambda place: {}, gigabytes=200")
    row = rows(60)["large"]
    assert (row["status"], row["why"]) == ("too small a GPU", "200 GB needed, it has 150")


def test_rows_are_kept_as_they_come(run: Any, tmp_path: Path) -> None:
    rows = [{"topic": "speed", "check": name, "status": "ok", "figures": {"ms": 1}} for name in ("a", "b", "a")]
    rows[2]["figures"] = {"ms": 2}
    for row in rows:
        run.keep(tmp_path / "kept", row)
    kept = json.loads((tmp_path / "kept" / "speed.json").read_text(encoding="utf-8"))
    assert kept["machine"]["device"] == "1 x NVIDIA H200"
    assert [(row["check"], row["figures"]["ms"]) for row in kept["rows"]] == [("b", 1), ("a", 2)]


def test_a_folder_of_parts_of_another_package_is_not_the_package(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "flash_attn_like" / "cute").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    check = run.Check("x", dict, needs=("flash_attn_like", "json"))
    assert check.missing() == ["flash_attn_like"]
