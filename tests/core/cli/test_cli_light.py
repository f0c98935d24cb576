"""What help, listing and a refused plan import and cost, each in a process of its own."""

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "trl", "numpy", "pyarrow", "matplotlib")
WATCH = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\nimported: " + " ".join(sys.modules)))
from ft.__main__ import main
main()
"""


def imported_by(*words):
    """The exit code, and the modules that `ft` with these words has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", WATCH, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.rpartition("imported: ")[2].split()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["plan", "-h"],
        ["data", "--help"],
        ["data", "check", "--help"],
        ["data", "preview", "-h"],
        ["version"],
        ["--version"],
    ],
)
def test_help_imports_neither_heavy_nor_middling_packages(words):
    code, modules = imported_by(*words)
    assert code == 0
    assert "ft.cli.app" in modules
    assert not {*HEAVY, "rich", "pluggy", "ruamel.yaml", "rapidfuzz", "ft_plugins"} & set(modules)
    assert "pydantic" not in modules or words != ["--help"]  # typer itself takes it for the options of a command


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["plugins", "list"], 0),
        (["plan", "--model_name_or_path", "m", "--output_dir", "o", "--learning_rat", "1"], 2),
        (["run", "--model_name_or_path", "m", "--stage", "stf"], 3),
        (["data", "check", "rows.jsonl"], 4),
        (["data", "preview", "rows.jsonl"], 2),
        (["plan", "model_name_or_path=m", "output_dir=o", "use_cpu=true", "dataset=rows.jsonl", "stage=dpo"], 4),
    ],
)
def test_listing_and_refusing_import_nothing_heavy(words, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Q", "output": "R"}\n{"instruction": "Q"}\n')
    returned, modules = imported_by(*words)
    assert returned == code
    assert "ft.plugins" in modules
    assert not set(HEAVY) & set(modules)


def test_listing_imports_no_plugin():
    _, modules = imported_by("plugins", "list", "--json")
    assert not [name for name in modules if name.startswith("ft_plugins")]


def test_help_costs_at_most_ten_bare_interpreters():
    """150 ms of CPU on a machine at its full clock, where a bare interpreter costs 15."""
    assert _cpu("-m", "ft", "--help") <= 11 * _cpu("-c", "pass")


def _cpu(*arguments):
    """Least CPU seconds of several runs: the others measure the neighbours."""
    costs = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)
