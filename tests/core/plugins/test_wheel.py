"""A plugin in a wheel of its own: built, pip-installed, found, selected, called and blamed, with no change in ft."""

import json
import os
import subprocess
import sys

import pytest

from ft.testing import build_wheel, install_wheel

PROJECT = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "ft-sparse"
        version = "0.3"

        [project.entry-points."ft.adapters"]
        sparse = "ft_sparse"

        [tool.hatch.build.targets.wheel]
        packages = ["ft_sparse"]
    """,
    "ft_sparse/__init__.py": """
        from ft_hookspecs import PluginOptions, hookimpl

        class SparseOptions(PluginOptions):
            sparse_ratio: float = 0.5

        @hookimpl
        def ft_options():
            return SparseOptions

        @hookimpl
        def ft_evaluate(when):
            return {when: 1 / (len(when) - 2)}
    """,
}

PROGRAM = """
import json, sys
from ft.errors import PluginError
from ft.plugins import PluginManager, find_plugins, select
from ft_hookspecs import Selection

found = find_plugins()
(info,) = found.named("sparse")
imported_by_finding = "ft_sparse" in sys.modules
manager = PluginManager()
for chosen in select(found, [Selection("sparse", "finetuning_type", "adapters")]):
    manager.load(chosen)
((_, options),) = manager.each("ft_options")
ask = lambda when: manager.hook.ft_evaluate(run=None, trainer=None, when=when)
try:
    ask("no")
except PluginError as error:
    blame = str(error)
print(json.dumps([str(info), imported_by_finding, list(options.model_fields), ask("abc"), blame]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("project"), PROJECT)


def test_a_wheel_is_found_selected_called_and_blamed(wheel, tmp_path):
    install_wheel(wheel, tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown, imported_by_finding, keys, result, blame = json.loads(done.stdout)
    assert shown == "'sparse' (adapters, ft-sparse 0.3, ft_sparse)"
    assert not imported_by_finding
    assert keys == ["sparse_ratio"]
    assert result == [{"abc": 1.0}]
    assert blame.startswith(f"plugin {shown} failed in ft_evaluate: ZeroDivisionError: division by zero")
    assert str(tmp_path / "site" / "ft_sparse" / "__init__.py:13") in blame


def test_without_the_wheel_the_name_is_unknown(wheel):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert "ValueError: not enough values to unpack" in done.stderr


def test_what_hatchling_says_is_shown(tmp_path):
    with pytest.raises(RuntimeError, match=r"project\.version"):
        build_wheel(tmp_path, {"pyproject.toml": '[build-system]\nbuild-backend = "hatchling.build"\n[project]\n'})
