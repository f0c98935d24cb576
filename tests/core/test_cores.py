"""Threads of a run sleep while they wait where others compute too, and only there."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from types import SimpleNamespace
from ft import cores

used, loaded = float(sys.argv[1]), sys.argv[2]
cores.used_by_others = lambda: used
if loaded:
    sys.modules[loaded] = None
said = []
cores.share_cores(SimpleNamespace(plan={"use_cpu": True}, decide=said.append))
print(os.environ.get("OMP_WAIT_POLICY"), len(said))
"""


@pytest.mark.parametrize(
    ("used", "loaded", "given", "policy"),
    [
        (1.0, "", None, "PASSIVE 1"),
        (0.1, "", None, "None 0"),
        (1.0, "torch", None, "None 0"),
        (1.0, "", "ACTIVE", "ACTIVE 0"),
    ],
)
def test_threads_sleep_where_others_compute(monkeypatch, used, loaded, given, policy):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(used), loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == policy


def test_what_others_use_is_measured():
    from ft.cores import used_by_others

    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert used_by_others(0.5) > 0.2
    finally:
        busy.kill()
