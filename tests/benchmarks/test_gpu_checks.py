"""The checks for a GPU run on a CPU at tiny sizes, so that the first run on a GPU does not end at a slip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


def dry_run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, RUN, "--dry-run", *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("topic", ["kernels", "speed"])
def test_every_check_runs(topic: str) -> None:
    done = dry_run("--topic", topic)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| ok |" in done.stdout


def test_a_check_that_fails_costs_one_row(tmp_path: Path) -> None:
    for name in ("run.py", "check.py"):
        (tmp_path / name).write_text((RUN.parent / name).read_text())
    (tmp_path / "speed.py").write_text(
        "import os\n"
        "from check import Check\n"
        "def wrong(place):\n    raise AssertionError('2 is not 1')\n"
        "def checks():\n"
        "    yield Check('fine', lambda place: {'figure': 1})\n"
        "    yield Check('wrong', wrong)\n"
        "    yield Check('broken', lambda place: 1 / 0)\n"
        "    yield Check('dies', lambda place: os._exit(9))\n"
        "    yield Check('absent', wrong, needs=('no_such_package',))\n"
        "    yield Check('for a GPU', wrong, gpu_only=True)\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    table = done.stdout.partition("| --- |")[2]
    rows = {words[2].strip(): words[3:5] for row in table.splitlines() if len(words := row.split("|")) > 5}
    assert {name: status.strip() for name, (status, _) in rows.items()} == {
        "fine": "ok", "wrong": "WRONG", "broken": "FAILED", "dies": "FAILED",
        "absent": "not installed", "for a GPU": "needs a GPU",
    }  # fmt: skip
    assert "2 is not 1" in rows["wrong"][1]
    assert "ZeroDivisionError" in rows["broken"][1]
    assert "no_such_package" in rows["absent"][1]
