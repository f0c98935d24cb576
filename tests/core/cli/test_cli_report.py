"""Errors on one screen: exact text without a terminal, a box on one; exit codes; no traceback unless asked for."""

import errno
import io
import re

import pytest

from ft.cli import report as module
from ft.cli.report import LONGEST, describe, report
from ft.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    PluginError,
    Problems,
    Stopped,
    TrainingError,
)

WRONG_KEY = ConfigError(
    "unknown key 'learning_rat'",
    where="config.yaml:3",
    why="no selected plugin declares it",
    remedy="did you mean 'learning_rate'?",
)


@pytest.fixture(autouse=True)
def no_traceback_variable(monkeypatch):
    monkeypatch.delenv("FT_TRACEBACK", raising=False)


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of a width."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def make(width=80, **environ):
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), **environ}.items():
            monkeypatch.setenv(name, value)
        return screen

    return make


def test_plain_text_is_exact(capsys):
    assert report(WRONG_KEY) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error (configuration): unknown key 'learning_rat'\n"
        "  where: config.yaml:3\n"
        "  why: no selected plugin declares it\n"
        "  remedy: did you mean 'learning_rate'?\n"
    )


def test_several_problems_are_one_report_with_their_own_titles(capsys):
    code = report(Problems([DataError("bad row", where="a.jsonl:2"), WRONG_KEY]))
    lines = capsys.readouterr().err.splitlines()
    assert code == 4  # that of the first
    assert lines[:3] == [
        "error (data): bad row",
        "  where: a.jsonl:2",
        "error (configuration): unknown key 'learning_rat'",
    ]
    assert lines[-1] == "2 problems"


def test_notes_are_shown(capsys):
    error = DataError("bad row")
    error.add_note("raised by plugin 'x'")
    report(error)
    assert "  note: raised by plugin 'x'" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (PluginError("x"), 3),
        (DataError("x"), 4),
        (EnvironmentProblem("x"), 5),
        (TrainingError("x"), 6),
        (Problems([PluginError("x"), ConfigError("y")]), 3),
        (Stopped("SIGTERM", 143, "checkpoint-40"), 143),
        (Stopped("SIGINT", 130, "checkpoint-40"), 130),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 6),
        (MemoryError(), 6),
        (OSError(errno.ENOSPC, "No space left on device", "/data/model"), 5),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), 5),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data"), 6),
    ],
)
def test_every_error_has_its_exit_code_through_every_layer(ft, planning, error, code):
    planning.outcome = error
    result = ft("run", "config.yaml")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_disk_full_names_the_file():
    _, (entry,) = describe(OSError(errno.ENOSPC, "No space left on device", "/data/model"))
    assert (entry.title, entry.what) == ("error (environment)", "No space left on device: /data/model")


def test_stopping_says_what_was_saved(capsys):
    report(Stopped("SIGTERM", 143, "outputs/checkpoint-40"))
    assert capsys.readouterr().err == "stopped: by SIGTERM\n  saved: outputs/checkpoint-40\n"


def fail_deep_inside():
    raise ValueError("shapes differ " + "x" * 10_000)


def test_the_unexpected_is_short_and_names_its_innermost_place(capsys):
    with pytest.raises(ValueError, match="shapes") as caught:
        fail_deep_inside()
    assert report(caught.value) == 6
    text = capsys.readouterr().err
    assert text.startswith("error (unexpected): ValueError: shapes differ xxx")
    assert len(text) < LONGEST + 400
    assert f"where: {__file__}:{fail_deep_inside.__code__.co_firstlineno + 1} in fail_deep_inside" in text
    assert "--traceback" in text


@pytest.mark.parametrize(("flag", "variable"), [(True, ""), (False, "1")])
def test_traceback_when_asked_for(ft, planning, monkeypatch, flag, variable):
    monkeypatch.setenv("FT_TRACEBACK", variable)
    planning.outcome = WRONG_KEY
    result = ft("run", "config.yaml", *(["--traceback"] if flag else []))
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("remedy: did you mean 'learning_rate'?\n")
    assert result.exit_code == 2


def test_ft_traceback_zero_is_no(monkeypatch, capsys):
    monkeypatch.setenv("FT_TRACEBACK", "0")
    report(WRONG_KEY)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("width", [24, 80])
def test_box_on_a_terminal_fits_its_width(terminal, width):
    screen = terminal(width)
    report(ConfigError("[bold]not markup[/bold]", where="c.yaml:3", remedy="write " + "a long word " * 9))
    lines = plain(screen.getvalue()).splitlines()
    assert lines[0].startswith("╭─")
    assert "error" in lines[0]
    assert all(len(line) <= width for line in lines)
    assert "[bold]" in screen.getvalue()
    assert "\x1b[31m" in screen.getvalue()


def test_one_box_for_several_problems(terminal):
    screen = terminal()
    report(Problems([WRONG_KEY, DataError("bad row")]))
    text = plain(screen.getvalue())
    assert text.count("╭") == 1
    assert "2 problems" in text
    assert "error (data): bad row" in text


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_box_and_no_colour_when_asked(terminal, environ):
    screen = terminal(**environ)
    report(WRONG_KEY)
    assert screen.getvalue().startswith("error (configuration): unknown key")
    assert "\x1b" not in screen.getvalue()


def test_plain_reports_cost_no_rich(monkeypatch, capsys):
    monkeypatch.setattr(module, "_boxed", None)  # would fail if it were used
    report(WRONG_KEY)
    assert capsys.readouterr().err.startswith("error")


def test_a_closed_pipe_ends_quietly(ft, planning):
    planning.outcome = BrokenPipeError(errno.EPIPE, "Broken pipe")
    result = ft("run", "config.yaml")
    assert (result.exit_code, result.stderr) == (1, "")


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)
