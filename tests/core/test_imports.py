"""What may be imported when: help, listing and planning must start in milliseconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE = "ft.training"
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "numpy", "pyarrow")


def imported_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*(set(sys.modules) & { {*HEAVY, ENGINE}!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["ft", "ft.errors", "ft.options", "ft.config", "ft.plugins", "ft.planning", "ft.lifecycle", "ft.data",
     "ft.modeling", "ft.training", "ft.devices", "ft.testing", "ft.cli", "ft_hookspecs", "ft_plugins.selectors"],
)  # fmt: skip
def test_importing_is_light(module: str) -> None:
    assert imported_by(f"import {module}") - {module} == set()


def test_a_whole_plan_imports_nothing_heavy_and_nothing_of_the_engine(tmp_path: object) -> None:
    words = ["model_name_or_path=some/model", "dataset=rows.json", f"output_dir={tmp_path}/out", "use_cpu=true"]
    assert imported_by(f"from ft.planning import make_plan\nmake_plan(None, {words!r})") == set()
