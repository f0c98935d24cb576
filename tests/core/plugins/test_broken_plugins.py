"""Every way a plugin can be broken, and the one screen that says whose fault it is."""

import pytest

from ft.errors import EnvironmentProblem, FtError, PluginError
from ft.plugins import PluginManager, find_plugins, select
from ft_hookspecs import Selection

pytestmark = pytest.mark.usefixtures("no_discovery")

GOOD = "@hookimpl\ndef ft_check(plan): return []\n"

BROKEN = {
    "missing package": ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'", ":2"),
    "syntax": ("def broken(:\n", "SyntaxError", ":2"),
    "import error": ("from pathlib import Nope\n", "ImportError: cannot import name 'Nope'", ":2"),
    "exit on import": ("raise SystemExit(3)\n", "SystemExit: 3", ":2"),
    "raises on import": ("x = 1 / 0\n", "ZeroDivisionError: division by zero", ":2"),
    "no such hook": ("@hookimpl\ndef ft_chek(plan): ...\n", "did you mean 'ft_check'?", ":2"),
    "wrong parameter": ("@hookimpl\ndef ft_check(plam): ...\n", "did you mean 'plan'?", ":2"),
    "default": ("@hookimpl\ndef ft_check(plan=None): ...\n", "plain names without defaults", ":2"),
    "keywords": ("@hookimpl\ndef ft_check(**plan): ...\n", "'**plan' in ft_check", ":2"),
    "star": ("@hookimpl\ndef ft_check(*plan): ...\n", "'*plan' in ft_check", ":2"),
    "keyword-only": ("@hookimpl\ndef ft_check(*, plan): ...\n", "plain names without defaults", ":2"),
    "other API": ("ft_api_version = 99\n" + GOOD, "written for version 99 of ft's plugin API", ""),
    "no hook": ("x = 1\n", "has no hook", ""),
    "not marked": ("def ft_check(plan): ...\n", "not marked", ":2"),
    "other marker": (
        "import pluggy\n@pluggy.HookimplMarker('pytest')\ndef ft_check(plan): ...\n",
        "mark it with @hookimpl of ft_hookspecs",
        ":3",
    ),
    "wrapper": ("@hookimpl(wrapper=True)\ndef ft_check(plan): yield\n", "marks ft_check with wrapper", ":2"),
    "optional": ("@hookimpl(optionalhook=True)\ndef ft_later(plan): ...\n", "which is not a hook", ":2"),
    "async": ("@hookimpl\nasync def ft_check(plan): ...\n", "makes ft_check async", ":2"),
    "twice": (GOOD + "@hookimpl(specname='ft_check')\ndef mine(plan): ...\n", "implements ft_check twice", ""),
}


def load(name: str = "sparse") -> PluginManager:
    manager = PluginManager()
    for info in select(find_plugins(), [Selection(name, "--plugin")]):
        manager.load(info)
    return manager


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_named_with_its_distribution_place_and_remedy(case, fake_plugin):
    source, message, line = BROKEN[case]
    fake = fake_plugin("sparse", source, kind="adapters", version="1.5")
    with pytest.raises(PluginError) as caught:
        load()
    shown = str(caught.value)
    assert "plugin 'sparse' (adapters, ft-sparse 1.5, " in shown
    assert message in shown
    assert caught.value.exit_code == 3
    assert caught.value.plugin.distribution == "ft-sparse"
    (module,) = fake.modules
    assert f"{module.removesuffix('.py')}.py{line}" in shown if line else module.removesuffix(".py") in shown
    assert caught.value.remedy
    assert len(shown.splitlines()) <= 6


def test_nothing_of_a_refused_plugin_stays(fake_plugin):
    fake_plugin("sparse", GOOD + "@hookimpl\ndef ft_chek(plan): ...\n")
    manager = PluginManager()
    (info,) = find_plugins()
    with pytest.raises(PluginError):
        manager.load(info)
    assert manager.infos == ()
    assert manager.hook.ft_check(plan=None) == []


def test_several_misfits_are_reported_together(fake_plugin):
    fake_plugin("sparse", "@hookimpl\ndef ft_check(plam, other): ...\n@hookimpl\ndef ft_lod(run): ...\n")
    with pytest.raises(FtError) as caught:
        load()
    assert caught.value.exit_code == 3
    assert all(word in str(caught.value) for word in ("'plam'", "'other'", "did you mean 'ft_log'?"))


def test_the_import_error_is_the_cause(fake_plugin):
    fake_plugin("sparse", "import not_there_at_all\n")
    with pytest.raises(PluginError) as caught:
        load()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("requires", "remedy"),
    [((), "pip install not-there"), (("not_there>=2 ; python_version > '3'",), "pip install 'not_there>=2'")],
)
def test_a_missing_package_is_answered_with_the_command(fake_plugin, requires, remedy):
    fake_plugin("sparse", "import not_there.inner\n", requires=requires)
    with pytest.raises(PluginError) as caught:
        load()
    assert caught.value.remedy == remedy


def test_an_entry_point_that_names_nothing_is_a_fault_of_the_distribution(fake_plugin):
    fake_plugin("sparse", entry_points={"ft.adapters": {"sparse": "no_such_module"}}, modules={})
    with pytest.raises(PluginError, match="no module 'no_such_module'") as caught:
        load()
    assert caught.value.remedy == "reinstall it: pip install --force-reinstall --no-deps ft-sparse"


def test_an_entry_point_to_a_missing_attribute_or_a_class_is_refused(fake_plugin):
    modules = {"of_classes.py": "class Sparse:\n    pass\n"}
    fake_plugin("one", entry_points={"ft.adapters": {"one": "of_classes:Absent"}}, modules=modules)
    with pytest.raises(PluginError, match=r"AttributeError: .*Absent"):
        load("one")
    fake_plugin("two", entry_points={"ft.adapters": {"two": "of_classes:Sparse"}}, modules=modules)
    with pytest.raises(PluginError, match="is the class Sparse"):
        load("two")


@pytest.mark.parametrize("order", ["{0}\n" + GOOD, "{0}\nimport not_there\n" + GOOD])
def test_a_declared_package_that_is_missing_is_a_problem_of_the_environment(fake_plugin, order):
    declared = "ft_requires = {'not_there': \"pip install 'ft-framework[liger]'\"}"
    fake_plugin("sparse", order.format(declared))
    with pytest.raises(EnvironmentProblem) as caught:
        load()
    assert caught.value.exit_code == 5
    assert caught.value.remedy == "pip install 'ft-framework[liger]'"
    assert "'sparse'" in str(caught.value)
    assert "'not_there'" in str(caught.value)


def test_declared_packages_that_are_there_are_not_imported(fake_plugin):
    code = "import sys; sys.modules.pop('this', None)\nft_requires = {'this': 'nothing', 'pluggy': 'nothing'}\n"
    fake_plugin("sparse", code + GOOD)
    assert [info.name for info in load().infos] == ["sparse"]
    import sys

    assert "this" not in sys.modules


def test_ctrl_c_during_an_import_is_ctrl_c(fake_plugin):
    fake_plugin("sparse", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load()


def test_the_right_api_version_is_accepted(fake_plugin):
    fake_plugin("sparse", "ft_api_version = 1\n" + GOOD)
    assert [info.id for info in load().infos] == ["plugins:sparse"]


def test_an_unselected_broken_plugin_hurts_nobody(fake_plugin):
    fake_plugin("broken", "raise SystemExit(3)\n")
    fake_plugin("sparse", GOOD)
    assert [info.id for info in load("sparse").infos] == ["plugins:sparse"]
