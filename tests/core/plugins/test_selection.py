"""From the words of keys and flags to plugins."""

import sys

import pytest

from ft.errors import PluginError
from ft.plugins import Broken, Exclusion, Found, candidates, disabled_plugins, find_plugins, select
from ft_hookspecs import PluginInfo, Selection


def installed(*ids: str, distribution: str = "ft-framework") -> tuple[PluginInfo, ...]:
    return tuple(PluginInfo(*one.split(":"), f"module_{one.partition(':')[2]}", distribution, "1.0") for one in ids)


FOUND = Found(
    installed("stages:sft", "adapters:lora", "loggers:console", "loggers:tensorboard", "plugins:liger", "stages:twin")
    + installed("plugins:twin", distribution="ft-twin")
)


def wish(plugin: str, kind: str = "", because: str = "--plugin", default: bool = False) -> Selection:
    return Selection(plugin, because, kind, default)


def ids(*wishes: Selection, excluded: tuple[str, ...] = (), found: Found = FOUND) -> list[str]:
    return [info.id for info in select(found, wishes, excluded)]


def refusal(*wishes: Selection, excluded: tuple[str, ...] = (), found: Found = FOUND) -> str:
    with pytest.raises(PluginError) as caught:
        select(found, wishes, excluded)
    assert caught.value.what
    assert caught.value.remedy
    return str(caught.value)


def test_names_are_resolved_in_order_and_duplicates_merged():
    wishes = wish("sft", "stages", "stage"), wish("liger"), wish("loggers:console"), wish("plugins:liger"), wish("lora")
    assert ids(*wishes) == ["stages:sft", "plugins:liger", "loggers:console", "adapters:lora"]


def test_the_kind_of_the_key_decides_between_kinds():
    assert ids(wish("twin", "stages", "stage")) == ["stages:twin"]


def test_a_name_in_two_kinds_is_answered_with_the_forms_to_write():
    assert "write stages:twin or plugins:twin" in refusal(wish("twin"))


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (wish("ligr"), "did you mean 'liger'?"),
        (wish("spt", "stages", "stage"), "did you mean 'sft'?"),
        (wish("lora", "stages", "stage"), "stage takes a plugin of kind stages; the installed one is adapters:lora"),
        (wish("stage:sft"), "did you mean 'stages:sft'?"),
        (wish("adapters:lora", "stages", "stage"), "stage takes a plugin of kind stages"),
        (wish("qqqq"), "installed: console, liger, lora, sft, tensorboard, twin"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_the_nearest(wanted, answer):
    with pytest.raises(PluginError) as caught:
        select(FOUND, [wanted])
    assert answer in str(caught.value)
    assert caught.value.where == wanted.because


def test_a_name_that_may_stand_in_damaged_metadata_says_so():
    found = Found(FOUND.plugins, (Broken("ft-sparse", "ft.adapter (sparse) is no kind of plugin"),))
    assert "ft-sparse cannot be used (ft.adapter (sparse) is no kind of plugin)" in refusal(wish("sparse"), found=found)


def test_a_name_claimed_twice_names_both_distributions_and_the_ways_out():
    found = Found((*FOUND, *installed("plugins:liger", distribution="ft-liger")))
    shown = refusal(wish("liger"), found=found)
    assert "claimed by 'liger' (plugins, ft-framework 1.0" in shown
    assert "and by 'liger' (plugins, ft-liger 1.0" in shown
    assert "uninstall one, or leave one out: --no-plugin ft-framework or --no-plugin ft-liger" in shown
    (info,) = select(found, [wish("liger")], ["ft-framework"])
    assert info.distribution == "ft-liger", "and the way out works"


class TestDisabling:
    def test_a_default_is_left_out_without_a_word(self):
        wishes = wish("sft", "stages", "stage"), wish("console", "loggers", "default", default=True)
        assert ids(*wishes, excluded=("console",)) == ["stages:sft"]
        assert ids(*wishes, excluded=("loggers:console",)) == ["stages:sft"]

    @pytest.mark.parametrize("word", ["console", "loggers:console", "ft-framework"])
    def test_what_a_key_selects_cannot_be_taken_out_in_the_same_place(self, word):
        shown = refusal(wish("console", "loggers", "report_to"), excluded=(word,))
        assert f"report_to selects it, and --no-plugin {word} stands in the same place" in shown

    def test_disabling_one_of_two_kinds_leaves_the_other(self):
        assert ids(wish("twin"), excluded=("stages:twin",)) == ["plugins:twin"]

    def test_a_stronger_place_takes_out_what_a_weaker_one_asks_for(self):
        wishes = [wish("console", "loggers", "report_to"), wish("liger")]
        every = candidates(FOUND, wishes, [Exclusion("console")], lambda _: 0)
        assert [plugin.name for plugin in every.select(wishes)] == ["liger"]
        assert str(every.taken_out(wishes[0])) == "--no-plugin console"
        assert every.taken_out(wishes[1]) is None

    def test_a_stronger_place_keeps_what_a_weaker_one_takes_out(self):
        wishes = [wish("console", "loggers", "report_to"), wish("console")]
        weaker = Exclusion("ft-framework", "FT_DISABLE_PLUGINS", 1)
        every = candidates(FOUND, wishes, [weaker], lambda each: 2 if each.because == "--plugin" else 0)
        (plugin,) = every.select(wishes)
        assert (plugin.name, every.kept(plugin), every.taken_out(wishes[0])) == ("console", weaker, None)

    @pytest.mark.parametrize("kind", ["stages", "adapters", "quantizers", "models"])
    def test_what_decides_what_trains_cannot_be_taken_out(self, kind):
        found = Found(installed(f"{kind}:it"))
        with pytest.raises(PluginError, match="cannot be taken out") as caught:
            candidates(found, [wish("it", kind, "key: it")], [Exclusion("it")], lambda _: 0).select(
                [wish("it", kind, "key: it")]
            )
        assert caught.value.remedy == "give key another value, or drop --no-plugin it"

    def test_a_misspelt_exclusion_is_an_error(self):
        assert "did you mean 'console'?" in refusal(wish("sft"), excluded=("consol",))

    def test_a_distribution_of_selectors_alone_can_be_excluded(self):
        found = Found(FOUND.plugins, selectors=installed("selectors:keys", distribution="ft-keys"))
        assert ids(wish("sft"), excluded=("ft-keys",), found=found) == ["stages:sft"]

    def test_the_environment_gives_a_comma_separated_list(self):
        assert disabled_plugins({"FT_DISABLE_PLUGINS": " console, loggers:jsonl ,"}) == ("console", "loggers:jsonl")
        assert disabled_plugins({}) == ()


class TestInHouse:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        (tmp_path / "lab").mkdir()
        (tmp_path / "lab" / "mine.py").touch()
        (tmp_path / "lab" / "sft.py").touch()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mine.py").touch()
        monkeypatch.chdir(tmp_path)
        self.path = str(tmp_path / "lab" / "mine.py")

    def test_a_path_is_relative_to_the_current_directory(self):
        (info,) = select(FOUND, [wish("lab/mine.py")])
        assert info == PluginInfo("plugins", "mine", self.path, "in-house", "")
        assert str(info) == f"'mine' (plugins, in-house, {self.path})"

    @pytest.mark.parametrize("plugin_first", [True, False])
    def test_its_name_can_be_used_in_a_key_of_any_kind(self, plugin_first):
        wishes = [wish("lab/mine.py"), wish("mine", "stages", "stage")]
        (info,) = select(FOUND, wishes if plugin_first else wishes[::-1])
        assert info == PluginInfo("stages", "mine", self.path, "in-house", "")

    def test_a_key_takes_a_path_itself(self):
        assert ids(wish("lab/mine.py", "adapters", "finetuning_type")) == ["adapters:mine"]

    def test_a_key_can_put_a_file_in_the_place_of_an_installed_plugin(self):
        (info,) = select(FOUND, [wish("lab/sft.py", "stages", "stage")])
        assert (info.id, info.distribution) == ("stages:sft", "in-house")

    def test_a_file_named_twice_is_one_plugin(self):
        assert ids(wish("lab/mine.py"), wish("./lab/mine.py"), wish(self.path)) == ["plugins:mine"]

    def test_a_name_that_is_installed_too_is_claimed_twice(self):
        shown = refusal(wish("lab/sft.py"), wish("sft", "stages", "stage"))
        assert "claimed by" in shown
        assert "ft-framework 1.0" in shown
        assert "in-house" in shown
        assert "rename the file" in shown

    def test_two_files_of_one_name_are_claimed_twice(self):
        assert "rename the file" in refusal(wish("lab/mine.py"), wish("other/mine.py"))
        assert "rename the file" in refusal(wish("lab/mine.py"), wish("other/mine.py"), wish("mine", "stages"))

    def test_one_file_is_of_one_kind(self):
        wishes = wish("lab/mine.py"), wish("mine", "stages", "stage"), wish("mine", "adapters", "finetuning_type")
        assert "one of adapters and one of stages" in refusal(*wishes)

    def test_a_missing_file_is_told_with_where_it_was_sought(self, tmp_path):
        assert str(tmp_path / "lab" / "absent.py") in refusal(wish("lab/absent.py"))

    def test_a_dotted_module_is_a_plugin_and_is_not_imported_yet(self):
        assert select(FOUND, [wish("lab_package.mine")]) == [
            PluginInfo("plugins", "mine", "lab_package.mine", "in-house", "")
        ]
        assert "lab_package" not in sys.modules

    def test_an_installed_name_with_a_dot_is_a_name(self):
        assert ids(wish("v1.lora"), found=Found(installed("adapters:v1.lora"))) == ["adapters:v1.lora"]

    def test_it_can_be_disabled_like_any_other(self):
        assert "selected and taken out" in refusal(wish("lab/mine.py"), excluded=("mine",))


@pytest.mark.usefixtures("no_discovery")
def test_selecting_imports_nothing(fake_plugin):
    modules = [*fake_plugin("one", "raise SystemExit\n").modules, *fake_plugin("two", "raise SystemExit\n").modules]
    assert ids(wish("one"), found=find_plugins()) == ["plugins:one"]
    assert not {name.removesuffix(".py") for name in modules} & set(sys.modules)
