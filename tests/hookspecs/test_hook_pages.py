"""The pages on hooks say what the specs say, and their examples are plugins."""

import inspect
import re
from pathlib import Path

import pytest

from ft.plugins import PluginManager
from ft_hookspecs import PluginInfo, specs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "hooks"
HOOKS = {name: spec for name, spec in vars(specs).items() if name.startswith("ft_")}
PHASE_OF = {hook: phase for phase, hooks in specs.PHASES.items() for hook in hooks}
INDEX = (PAGES / "index.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """The Python blocks of a page: the signature, then the example."""
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_every_hook_has_a_page_and_every_page_a_hook():
    assert {path.stem for path in PAGES.glob("*.md")} == {*HOOKS, "index"}
    assert re.findall(r"^\| [^|]+ \| \[`(\w+)`\]", INDEX, re.MULTILINE) == list(HOOKS)


def test_every_hook_stands_in_one_phase_in_the_order_of_the_specs():
    assert [hook for hooks in specs.PHASES.values() for hook in hooks] == list(HOOKS)


def test_the_page_on_the_architecture_has_the_same_phases():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("\n| phase | hooks | by |\n")[2]
    rows = [row.split(" | ") for row in text.partition("\n\n")[0].splitlines()[1:]]
    assert {row[0].removeprefix("| "): tuple(re.findall(r"`(ft_\w+)`", row[1])) for row in rows} == dict(specs.PHASES)


@pytest.mark.parametrize("hook", HOOKS)
class TestPage:
    @pytest.fixture
    def page(self, hook) -> str:
        return (PAGES / f"{hook}.md").read_text(encoding="utf-8")

    def test_the_signature_is_that_of_the_spec(self, hook, page):
        written = str(inspect.signature(HOOKS[hook])).replace("'", "")
        assert blocks(page)[0].strip() == f"def {hook}{written}: ..."

    def test_it_says_who_answers(self, hook, page):
        answers = "the first that is not `None`" if HOOKS[hook].ft_spec["firstresult"] else "of all plugins"
        assert f"| answers | {answers} |" in page
        assert f"[`{hook}`]({hook}.md)" in INDEX
        (row,) = (line for line in INDEX.splitlines() if f"[`{hook}`]" in line)
        phase, by = (re.search(rf"\| {name} \| (.*) \|", page)[1] for name in ("phase", "implemented by"))
        assert phase == PHASE_OF[hook]
        assert row.startswith(f"| {phase} | ")
        assert f" | {by} | {'first' if HOOKS[hook].ft_spec['firstresult'] else 'all'} | " in row

    def test_the_example_is_a_plugin_that_implements_it(self, hook, page, tmp_path):
        example = blocks(page)[1]
        assert len(example.splitlines()) <= 14
        path = tmp_path / f"example_of_{hook}.py"
        path.write_text(example, encoding="utf-8")
        manager = PluginManager()
        info = PluginInfo("plugins", path.stem, str(path), "in-house", "")
        manager.load(info)
        assert manager.implementers(hook) == (info,)

    def test_it_has_its_parts(self, hook, page):
        assert page.startswith(f"# `{hook}`\n")
        assert all(f"\n## {part}\n\n" in page for part in ("Result", "Example", "Mistakes"))
        assert all(len(line) <= 120 for line in page.splitlines())
