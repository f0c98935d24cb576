"""What the README and the guides say is so: commands exist, snippets plan, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML
from typer import Context
from typer.main import get_command
from typer.testing import CliRunner

from ft import errors
from ft.cli import app
from ft.planning import make_plan
from ft.plugins import find_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
COMPLETE = [ROOT / "README.md", *sorted(ROOT.glob("examples/**/*.md"))]
"""Pages whose commands run as they are; the others may speak of a model or a data set of the reader's."""
PAGES = [*sorted(ROOT.glob("*.md")), *COMPLETE[1:], *sorted(ROOT.glob("docs/**/*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(program: str, pages: Sequence[Path] = PAGES) -> Iterator[list[str]]:
    """The lines of a program that a reader of the pages would type."""
    for page in pages:
        for block in blocks(page.read_text(encoding="utf-8"), "console"):
            for line in block.splitlines():
                if line.startswith("$ ") and (words := shlex.split(line.removeprefix("$ ")))[0] == program:
                    yield words


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_make_targets_exist() -> None:
    targets = {target for _, *targets in commands("make") for target in targets}
    assert {"quickstart", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def test_ft_commands_exist() -> None:
    known: Any = get_command(app)
    typed = list(commands("ft"))
    assert typed
    for _, command, *rest in typed:
        assert command in known.list_commands(Context(known))
        subcommands = getattr(known.commands.get(command), "commands", None)
        assert subcommands is None or rest[0] in subcommands


def test_runs_that_are_shown_plan() -> None:
    """Each ``ft run`` and ``ft plan`` of the README and the examples is a composition without a problem."""
    typed = [words for words in commands("ft", pages=COMPLETE) if words[1] in ("run", "plan")]
    assert typed
    for words in typed:
        result = CliRunner().invoke(app, ["plan", *words[2:], "--json"])
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
        assert json.loads(result.stdout)["plugins"]


@pytest.mark.parametrize("snippet", blocks(README, "yaml"))
def test_snippets_plan(snippet: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(snippet, encoding="utf-8")
    make_plan(config)


def test_the_quickstart_is_shown_as_it_is() -> None:
    shipped = YAML(typ="safe").load((ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    (shown,) = (YAML(typ="safe").load(snippet) for snippet in blocks(README, "yaml"))
    assert shown.items() <= shipped.items()


def test_the_plugin_snippet_is_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks(README, "python")
    (tmp_path / "shout.py").write_text(snippet, encoding="utf-8")
    _, manager = make_plan(Path("examples/quickstart.yaml"), plugins=[str(tmp_path / "shout.py")])
    assert "shout" in {info.name for info in manager.infos}


def test_the_table_of_what_works_names_installed_plugins() -> None:
    installed = {info.name for info in find_plugins()}
    for row in ("stages", "adapters", "loggers"):
        (works,) = re.findall(rf"^\| {row} \| ([^|]*) \|", README, re.MULTILINE)
        names = set(re.findall(r"`(\w+)`", works))
        assert names
        assert names <= installed


def test_the_exit_codes_are_those_of_the_errors() -> None:
    stated = set(map(int, re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)))))
    kinds = (errors.ConfigError, errors.PluginError, errors.DataError, errors.EnvironmentProblem, errors.TrainingError)
    assert stated == {
        errors.EXIT_DONE,
        errors.EXIT_INTERRUPTED,
        errors.EXIT_TERMINATED,
        *(kind.exit_code for kind in kinds),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [link for link in links if link and not re.match(r"https?:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []
