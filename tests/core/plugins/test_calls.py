"""Calls go in the order of selection, and what goes wrong names plugin, hook, distribution, version and line."""

import sys

import pytest

from ft.errors import DataError, FtError, PluginError, Stopped
from ft.plugins import PluginManager, find_plugins, find_selectors, select
from ft.plugins.results import EXPECTED, GATHERED
from ft.plugins.verification import HOOKS
from ft_hookspecs import Change, PluginInfo, PluginOptions, Selection, hookimpl

pytestmark = pytest.mark.usefixtures("no_discovery")


def loaded(*names: str) -> PluginManager:
    manager = PluginManager()
    for info in select(find_plugins(), [Selection(name, "--plugin") for name in names]):
        manager.load(info)
    return manager


def added(**plugins: object) -> PluginManager:
    manager = PluginManager()
    for name, plugin in plugins.items():
        manager.add(PluginInfo("plugins", name, f"module_{name}", f"ft-{name}", "1.0"), plugin)
    return manager


def plugin(**hooks) -> object:
    """An object whose hooks are the given functions."""
    return type("Plugin", (), {name: staticmethod(hookimpl(function)) for name, function in hooks.items()})()


class TestOrder:
    def test_only_selected_plugins_are_imported_and_they_act_in_order_of_selection(self, fake_plugin):
        template = "@hookimpl\ndef ft_evaluate(when): return {{'{0} ' + when: 1.0}}\n"
        modules = {name: next(iter(fake_plugin(name, template.format(name)).modules)) for name in ("a", "b", "c")}
        manager = loaded("c", "a")
        expected = [("c", {"c after": 1.0}), ("a", {"a after": 1.0})]
        assert [(info.name, r) for info, r in manager.each("ft_evaluate", run=0, trainer=0, when="after")] == expected
        assert manager.hook.ft_evaluate(run=0, trainer=0, when="after") == [result for _, result in expected]
        assert modules["a"].removesuffix(".py") in sys.modules
        assert modules["b"].removesuffix(".py") not in sys.modules

    def test_the_first_selected_answers_first(self):
        manager = added(
            none=plugin(ft_save_model=lambda: None),
            first=plugin(ft_save_model=lambda: True),
            second=plugin(ft_save_model=lambda: 1 / 0),
        )
        assert manager.hook.ft_save_model(run=0, model=0, folder=0) is True

    def test_first_and_last_are_respected_and_within_them_the_order_of_selection(self):
        calls = []

        class Plugin:
            def __init__(self, name):
                self.name = name

        def ranked(**marks):
            def ft_run_finished(self):
                calls.append(self.name)

            return type("Ranked", (Plugin,), {"ft_run_finished": hookimpl(ft_run_finished, **marks)})

        last, plain, first = ranked(trylast=True), ranked(), ranked(tryfirst=True)
        kinds = {"a": last, "b": plain, "c": first, "d": last, "e": plain, "f": first}
        manager = added(**{name: kind(name) for name, kind in kinds.items()})
        manager.hook.ft_run_finished(run=0)
        assert "".join(calls) == "cfbead"
        assert [info.name for info, _ in manager.each("ft_run_finished", run=0)] == list("cfbead")

    def test_a_chain_goes_through_call(self):
        def change(name):
            return plugin(ft_adapt_model=lambda model: Change(f"{model}+{name}", "did it"))

        manager = added(a=change("a"), b=change("b"))
        model = "m"
        for info in manager.implementers("ft_adapt_model"):
            model = manager.call(info, "ft_adapt_model", run=0, model=model).model
        assert model == "m+a+b"

    def test_a_hook_gets_only_what_it_declares(self):
        manager = added(a=plugin(ft_evaluate=lambda when: {when: 1.0}), b=plugin(ft_evaluate=lambda run: {"run": run}))
        assert [result for _, result in manager.each("ft_evaluate", run=0, trainer=0, when="x")] == [
            {"x": 1.0},
            {"run": 0},
        ]

    def test_an_object_named_by_an_entry_point_is_the_plugin(self, fake_plugin):
        source = """
            from ft_hookspecs import hookimpl
            class Weights:
                def __init__(self, value): self.value = value
                @hookimpl
                def ft_evaluate(self, when): return {when: self.value}
            heavy = Weights(7.0)
        """
        fake_plugin("heavy", entry_points={"ft.plugins": {"heavy": "weights:heavy"}}, modules={"weights.py": source})
        assert loaded("heavy").hook.ft_evaluate(run=0, trainer=0, when="x") == [{"x": 7.0}]

    def test_a_hook_may_have_another_name_in_the_module(self, fake_plugin):
        fake_plugin("a", "@hookimpl(specname='ft_evaluate')\ndef scores(when): return {when: 1.0}\n")
        assert loaded("a").hook.ft_evaluate(run=0, trainer=0, when="x") == [{"x": 1.0}]

    def test_a_plugin_is_loaded_once(self, fake_plugin):
        fake_plugin("a", "@hookimpl\ndef ft_check(plan): return []\n")
        with pytest.raises(PluginError, match="loaded already"):
            loaded("a").load(find_plugins().plugins[0])


RAISING = "def ratio(x): return 1 / x\n@hookimpl\ndef ft_evaluate(when):\n    return {when: ratio(0)}\n"


class TestBlame:
    @pytest.mark.parametrize("through_relay", [True, False])
    def test_an_error_names_plugin_hook_distribution_version_line_and_cause(self, fake_plugin, through_relay):
        fake = fake_plugin("sparse", RAISING, kind="adapters", version="1.5")
        manager = loaded("sparse")
        by_relay = manager.hook.ft_evaluate
        call = by_relay if through_relay else lambda **values: list(manager.each("ft_evaluate", **values))
        with pytest.raises(PluginError) as caught:
            call(run=0, trainer=0, when="x")
        error = caught.value
        (module,) = fake.modules
        shown = f"plugin 'sparse' (adapters, ft-sparse 1.5, {module.removesuffix('.py')}) failed in ft_evaluate: "
        assert error.what == shown + "ZeroDivisionError: division by zero"
        assert error.where.endswith(f"{module}:2"), "the innermost line of the plugin, not of ft or the library below"
        assert "authors of ft-sparse" in error.remedy
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert error.plugin.name == "sparse"
        assert len(str(error).splitlines()) <= 4

    def test_a_line_in_a_library_below_is_told_by_the_plugins_own(self, fake_plugin):
        fake_plugin("sparse", "import json\n@hookimpl\ndef ft_evaluate(when):\n    return json.loads('{')\n")
        with pytest.raises(PluginError, match="JSONDecodeError") as caught:
            loaded("sparse").hook.ft_evaluate(run=0, trainer=0, when="x")
        assert caught.value.where.endswith(":5")

    def test_an_error_raised_on_purpose_passes_with_a_note(self):
        def fail():
            raise DataError("no rows", where="rows.jsonl:3")

        manager = added(a=plugin(ft_evaluate=fail))
        with pytest.raises(DataError) as caught:
            manager.hook.ft_evaluate(run=0, trainer=0, when="x")
        assert str(caught.value) == "no rows\n  where: rows.jsonl:3"
        assert caught.value.plugin.name == "a"
        assert caught.value.__notes__ == ["raised by plugin 'a' (plugins, ft-a 1.0, module_a) in ft_evaluate"]

    def test_the_innermost_plugin_is_the_one_at_fault(self):
        manager = PluginManager()
        outer = plugin(ft_run_finished=lambda: manager.hook.ft_evaluate(run=0, trainer=0, when="x"))
        for name, one in {"outer": outer, "inner": plugin(ft_evaluate=lambda: 1 / 0)}.items():
            manager.add(PluginInfo("plugins", name, name, f"ft-{name}", "1.0"), one)
        with pytest.raises(PluginError) as caught:
            manager.hook.ft_run_finished(run=0)
        assert caught.value.plugin.name == "inner"
        assert "ft_evaluate" in caught.value.what

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            KeyboardInterrupt(),
            Stopped("SIGTERM", 143, "nothing"),
            type("OutOfMemoryError", (RuntimeError,), {})(),
        ],
    )
    def test_what_is_nobodys_fault_passes(self, error):
        def fail():
            raise error

        with pytest.raises(type(error)) as caught:
            added(a=plugin(ft_evaluate=fail)).hook.ft_evaluate(run=0, trainer=0, when="x")
        assert caught.value is error

    def test_a_plugin_cannot_end_the_program(self):
        with pytest.raises(PluginError, match="SystemExit: 0"):
            added(a=plugin(ft_evaluate=lambda: sys.exit(0))).hook.ft_evaluate(run=0, trainer=0, when="x")

    def test_a_message_as_long_as_a_book_is_cut(self):
        def fail():
            raise ValueError("x" * 100_000)

        with pytest.raises(PluginError) as caught:
            added(a=plugin(ft_evaluate=fail)).hook.ft_evaluate(run=0, trainer=0, when="x")
        assert len(str(caught.value)) < 2000

    def test_rows_that_come_later_are_blamed_too(self):
        def rows():
            yield "row"
            raise OSError("gone")

        iterator = added(a=plugin(ft_load_dataset=rows)).hook.ft_load_dataset(plan=0, source=0)
        assert next(iterator) == "row"
        with pytest.raises(PluginError, match=r"'a'.*failed in ft_load_dataset: OSError: gone"):
            next(iterator)

    def test_a_reader_is_blamed_when_it_is_used(self):
        reader = added(a=plugin(ft_read_format=lambda: lambda row: row["x"])).hook.ft_read_format(
            plan=0, source=0, columns=()
        )
        assert reader({"x": 1}) == 1
        with pytest.raises(PluginError, match="failed in ft_read_format: KeyError: 'x'"):
            reader({})


class Options(PluginOptions):
    sparse_ratio: float = 0.5


class TestResults:
    def test_every_hook_says_what_it_may_return(self):
        assert set(EXPECTED) == set(HOOKS)
        assert set(HOOKS) >= GATHERED

    @pytest.mark.parametrize(
        ("hook", "result", "answer"),
        [
            ("ft_options", None, "returned None from ft_options"),
            ("ft_options", Options(), "must return a subclass of PluginOptions"),
            ("ft_check", ["wrong"], "returned (the str 'wrong') from ft_check"),
            ("ft_check", "wrong", "must return an iterable of Problem"),
            ("ft_adapt_model", None, "must return a Change"),
            ("ft_adapt_model", Change("model", "  "), "a Change that says nothing of what it changed"),
            ("ft_quantize_model", Change(None, "x"), "a Change of no model"),
            ("ft_resolve_model", "a/path", "must return a ModelFiles or None"),
            ("ft_model_load_options", None, "must return a mapping"),
            ("ft_callbacks", None, "must return an iterable of callbacks"),
            ("ft_save_model", "yes", "must return true when it has saved or None"),
            ("ft_template", "chatml", "must return a Template or None"),
            ("ft_read_format", {}, "must return a function of a row or None"),
            ("ft_evaluate", 0.5, "must return a mapping of metrics"),
            ("ft_reward", None, "must return an iterable of finite numbers"),
            ("ft_reward", [0.5, None], "returned (the float 0.5, None) from ft_reward"),
            ("ft_reward", [float("nan")], "returned (the float nan) from ft_reward"),
        ],
    )
    def test_a_result_of_the_wrong_type_is_the_plugins_fault(self, hook, result, answer):
        arguments = dict.fromkeys(HOOKS[hook])
        with pytest.raises(PluginError) as caught:
            list(added(a=plugin(**{hook: lambda: result})).each(hook, **arguments))
        assert answer in str(caught.value)
        assert "ft-a 1.0" in str(caught.value)
        assert caught.value.plugin.name == "a"

    @pytest.mark.parametrize(
        ("hook", "result"),
        [
            ("ft_options", Options),
            ("ft_check", []),
            ("ft_adapt_model", Change("model", "added 2 matrices")),
            ("ft_load_dataset", [1]),
            ("ft_load_model", None),
            ("ft_log", None),
            ("ft_log", 5),
        ],
    )
    def test_a_result_of_the_right_type_passes(self, hook, result):
        arguments = dict.fromkeys(HOOKS[hook])
        ((_, returned),) = added(a=plugin(**{hook: lambda: result})).each(hook, **arguments)
        assert returned == (tuple(result) if hook in GATHERED else result)

    def test_a_generator_of_problems_is_read_inside_the_blame(self):
        def problems():
            yield 1 / 0

        with pytest.raises(PluginError, match="failed in ft_check: ZeroDivisionError"):
            added(a=plugin(ft_check=problems)).hook.ft_check(plan=0)


class TestIsolated:
    def test_a_logger_that_raises_is_reported_once_and_left_out(self):
        rows, reports = [], []
        manager = added(bad=plugin(ft_log=lambda row: 1 / row), good=plugin(ft_log=lambda row: rows.append(row)))
        manager.report = reports.append
        for row in (1, 0, 0, 2):
            manager.isolated("ft_log", run=0, row=row)
        assert rows == [1, 0, 0, 2]
        (report,) = reports
        assert "'bad'" in str(report)
        assert "ft_log" in str(report)
        manager.hook.ft_log(run=0, row=0)  # the relay has left it out as well
        assert rows == [1, 0, 0, 2, 0]

    def test_its_other_hooks_stay(self):
        manager = added(bad=plugin(ft_log=lambda: 1 / 0, ft_evaluate=lambda: {"a": 1.0}))
        manager.isolated("ft_log", run=0, row=0)
        assert manager.hook.ft_evaluate(run=0, trainer=0, when="") == [{"a": 1.0}]

    def test_it_is_logged_when_nobody_listens(self, caplog):
        added(bad=plugin(ft_log=lambda: 1 / 0)).isolated("ft_log", run=0, row=0)
        assert "'bad'" in caplog.text


class TestSelectors:
    SOURCE = """
from ft_hookspecs import PluginOptions, Selection
class OPTIONS(PluginOptions):
    sparsity: str = "none"
def select(values):
    yield Selection(values["sparsity"], "sparsity", "adapters")
"""

    def test_a_selector_maps_keys_to_plugins(self, fake_plugin):
        fake_plugin("sparse", self.SOURCE, kind="selectors")
        (selector,) = find_selectors()
        assert [*selector.options.model_fields] == ["sparsity"]
        assert selector.owner == "ft-sparse"
        assert selector.select({"sparsity": "x"}) == (Selection("x", "sparsity", "adapters"),)

    def test_one_that_does_not_fit_or_fails_is_blamed_and_can_be_left_out(self, fake_plugin):
        fake_plugin("sparse", "OPTIONS = 1\n", kind="selectors")
        with pytest.raises(
            PluginError, match=r"selector 'sparse' \(selectors, ft-sparse 1.0.*\n.*\n.*OPTIONS"
        ) as caught:
            find_selectors()
        assert "--no-plugin ft-sparse" in caught.value.remedy
        assert find_selectors(["ft-sparse"]) == find_selectors(["selectors:sparse"]) == ()

    @pytest.mark.parametrize("body", ["values['absent']", "['sft']"])
    def test_what_it_does_wrong_is_its_own_fault(self, fake_plugin, body):
        fake_plugin("sparse", self.SOURCE.replace("yield", f"return {body}  #"), kind="selectors")
        with pytest.raises(FtError, match=r"ft-sparse 1\.0.*failed in select"):
            find_selectors()[0].select({})
