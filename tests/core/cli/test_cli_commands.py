"""Help everywhere, one command however it is started, completion, and a page that tells the truth."""

import os
import pty
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import ft as package
from ft.cli import app
from ft.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, FtError, Problems

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\| `ft ([a-z ]+)` \|", PAGE, re.MULTILINE)
CODES = [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]


def real_commands():
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    inner = [
        f"{name} {command.name or command.callback.__name__}"
        for name, group in groups.items()
        for command in group.registered_commands
    ]
    return sorted([*names, *inner, *(entry.name for entry in entry_points(group="ft.commands"))])


def test_the_page_names_every_command_and_no_other():
    assert sorted(COMMANDS) == real_commands()


def test_the_page_names_every_exit_code_and_no_other():
    kinds = [kind for kind in FtError.__subclasses__() if kind is not Problems]
    real = {kind.exit_code for kind in kinds} | {EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED}
    assert sorted(CODES) == sorted(real)
    titles = dict(re.findall(r"^\| (\d+) \| ([a-z]+)", PAGE, re.MULTILINE))
    assert {kind.title for kind in kinds} == {titles[str(kind.exit_code)] for kind in kinds}


def test_every_option_on_the_page_is_real(ft):
    helps = "".join(ft(*command.split(), "--help").stdout for command in COMMANDS)
    options = re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE)
    assert options
    assert [option for option in options if option not in helps] == []
    assert "--install-completion" in ft("--help").stdout


def test_every_variable_on_the_page_is_read_somewhere():
    sources = "".join(path.read_text() for path in Path(package.__file__).parent.rglob("*.py"))
    variables = re.findall(r"^\| `([A-Z_]+)`", PAGE, re.MULTILINE)
    assert len(variables) >= 5
    assert [name for name in variables if f'"{name}"' not in sources] == []


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", ["", "plugins", *COMMANDS])
def test_help_everywhere(ft, command, flag):
    result = ft(*command.split(), flag)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: ft {command}".rstrip())


@pytest.mark.parametrize("command", ["", "plugins", "run", "plan"])
def test_without_words_help_is_shown(ft, command):
    assert "Usage: ft" in (result := ft(*command.split())).output
    assert result.exit_code in (0, 2)  # typer changed it between its versions


@pytest.mark.parametrize("words", ["rum", "plugins lst", "version --jsn", "plugins show", "doctor extra"])
def test_an_unknown_word_is_a_configuration_error(ft, words):
    result = ft(*words.split())
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_version(ft):
    import json

    assert ft("version").stdout == ft("--version").stdout == f"ft {package.__version__}\n"
    versions = json.loads(ft("version", "--json").stdout)
    assert versions["ft"] == package.__version__
    assert {"python", "torch", "transformers"} <= set(versions)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_offers_commands(shell):
    words = {"bash": {"COMP_WORDS": "ft pl", "COMP_CWORD": "1"}}.get(shell, {"_TYPER_COMPLETE_ARGS": "ft pl"})
    extra = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    done = ft_process(env={"_FT_COMPLETE": f"complete_{shell}", **words, **extra})
    assert "plan" in done.stdout
    assert "plugins" in done.stdout


def test_completion_of_plugin_names():
    done = ft_process(env={"_FT_COMPLETE": "complete_bash", "COMP_WORDS": "ft plugins show json", "COMP_CWORD": "3"})
    assert done.stdout.split() == ["jsonl"]


def ft_process(*words, env=None, command=(sys.executable, "-m", "ft")):
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )


def test_the_command_and_the_module_are_the_same():
    script = (str(Path(sys.executable).parent / "ft"),)
    for words in (["--help"], ["plugins", "list"], ["plugins", "list", "--kind", "x"]):
        by_name, by_module = ft_process(*words, command=script), ft_process(*words)
        assert (by_name.returncode, by_name.stdout, by_name.stderr) == (
            by_module.returncode,
            by_module.stdout,
            by_module.stderr,
        )


def test_an_error_is_a_box_on_a_real_terminal_and_plain_in_a_pipe():
    words = ["plugins", "list", "--kind", "x"]
    plain = ft_process(*words)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error (configuration): there is no kind of plugin called 'x'\n  where: --kind\n")
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    environ.pop("NO_COLOR", None)
    done = subprocess.run([sys.executable, "-m", "ft", *words], stderr=theirs, env=environ, check=False)
    os.close(theirs)
    screen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 2
    assert re.sub(r"\x1b\[[\d;]*m", "", screen).startswith("╭─ error (configuration) ─")
    assert "Traceback" not in screen


def test_a_closed_pipe_leaves_no_traceback():
    done = subprocess.run(
        f"'{sys.executable}' -m ft plugins list | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "stages\n"
    assert done.stderr == ""
