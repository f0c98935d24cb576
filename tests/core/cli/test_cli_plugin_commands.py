"""Commands that plugins bring: listed by metadata, imported when called, blamed for what they do."""

import sys

import pytest

from ft.cli.checks import _commands
from ft.plugins import find_plugins

SOURCE = """
import typer

def hello(name: str = typer.Argument(help="Whom."), loud: bool = False) -> None:
    '''Greet somebody.'''
    typer.echo(f"hello {name}" + "!" * loud)

def broken() -> None:
    raise ValueError("no more words")

nothing = 3
"""


@pytest.fixture
def commands(fake_plugin):
    def install(name, function="hello", source=SOURCE, distribution="ft-hello"):
        module = f"commands_of_{name}_{distribution}".replace("-", "_")
        fake_plugin(
            name,
            distribution=distribution,
            entry_points={"ft.commands": {name: f"{module}:{function}"}},
            modules={f"{module}.py": source},
        )
        return module

    return install


def test_it_is_called_with_its_arguments_and_has_its_own_help(ft, commands):
    commands("greet")
    assert ft("greet", "you", "--loud").stdout == "hello you!\n"
    shown = ft("greet", "-h").stdout
    assert "Greet somebody." in shown
    assert "ft greet" in shown
    assert ft("greet").exit_code == 2


def test_help_lists_it_without_importing_it(ft, commands):
    module = commands("greet", source="raise SystemExit(9)")
    assert "greet" in ft("--help").stdout
    assert "ft-hello" in ft("--help").stdout
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("function", "source", "says"),
    [
        ("broken", SOURCE, "no more words"),
        ("hello", "import not_a_package_at_all", "not_a_package_at_all"),
        ("hello", "def hello(:", "SyntaxError"),
        ("missing", SOURCE, "missing"),
        ("nothing", SOURCE, "holds no function"),
    ],
)
def test_a_broken_one_is_blamed(ft, commands, function, source, says):
    commands("greet", function, source)
    result = ft("greet")
    assert result.exit_code == 3
    assert says in result.stderr
    assert "ft-hello" in result.stderr


def test_one_that_two_distributions_claim_is_refused_with_both_names(ft, commands, monkeypatch):
    commands("greet")
    commands("greet", distribution="ft-other")
    result = ft("greet", "you")
    assert result.exit_code == 3
    assert "ft-hello" in result.stderr
    assert "ft-other" in result.stderr
    monkeypatch.setenv("FT_DISABLE_PLUGINS", "ft-other")
    assert ft("greet", "you").stdout == "hello you\n"


def test_a_command_of_ft_cannot_be_replaced(ft, commands):
    commands("version")
    assert ft("version").stdout.startswith("ft ")
    (finding,) = _commands(find_plugins().commands)
    assert "commands:version of ft-hello is hidden by ft's own command" in finding.message


def test_an_unknown_command_stays_unknown(ft):
    assert ft("expnad").exit_code == 2
