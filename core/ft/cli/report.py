"""How an error is shown on one screen: what, where, why, remedy; in a box on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import TYPE_CHECKING, NamedTuple

import typer

from ft.cli.text import colours
from ft.errors import EXIT_INTERRUPTED, EnvironmentProblem, FtError, Problems, Stopped, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
LONGEST = 400  # characters of a foreign exception's text: some carry a whole compiler log
WITH_TRACEBACK = "run it again with --traceback (or FT_TRACEBACK=1) to see the full traceback, and report it"


class Entry(NamedTuple):
    """One thing to show: a title, a sentence, and labelled details in order."""

    title: str
    what: str
    details: tuple[tuple[str, str], ...] = ()


def report(error: BaseException, *, with_traceback: bool = False) -> int:
    """Show the error on standard error and return its exit code."""
    if with_traceback or os.environ.get("FT_TRACEBACK", "") not in ("", "0"):
        typer.echo("".join(traceback.format_exception(error)), err=True)
    code, shown = describe(error)
    (_boxed if colours(sys.stderr) else _plain)(shown)
    return code


def describe(error: BaseException) -> tuple[int, list[Entry]]:
    """The exit code of an exception, and what to show of it."""
    match error:
        case Stopped():
            return error.exit_code, [Entry("stopped", f"by {error.signal_name}", (("saved", error.saved),))]
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED, [Entry("stopped", "by SIGINT")]
        case FtError():
            return error.exit_code, list(_entries(error))
        case OSError(errno=number) if number in MACHINE_ERRORS:
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            return EnvironmentProblem.exit_code, [Entry(f"error ({EnvironmentProblem.title})", what)]
    return TrainingError.exit_code, [_unexpected(error)]


def _entries(error: FtError) -> Iterator[Entry]:
    if isinstance(error, Problems):
        for problem in error.problems:
            yield from _entries(problem)
        return
    details = [(label, getattr(error, label)) for label in ("where", "why", "remedy")]
    details += [("note", note) for note in getattr(error, "__notes__", ())]
    yield Entry(f"error ({error.title})", error.what, tuple((label, text) for label, text in details if text))


def _unexpected(error: BaseException) -> Entry:
    """A bug, of ft or of what it stands on: its kind, its text and the innermost place."""
    text = str(error).strip()
    text = f"{text[:LONGEST]} …" if len(text) > LONGEST else text
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    notes = [("note", note) for note in getattr(error, "__notes__", ())]
    details = (("where", where), *notes, ("remedy", WITH_TRACEBACK))
    return Entry("error (unexpected)", f"{type(error).__name__}: {text}".rstrip(": "), details)


def _plain(shown: list[Entry]) -> None:
    for entry in shown:
        typer.echo(f"{entry.title}: {entry.what}", err=True)
        for label, text in entry.details:
            typer.echo(f"  {label}: {text}", err=True)
    if len(shown) > 1:
        typer.echo(f"{len(shown)} problems", err=True)


def _boxed(shown: list[Entry]) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    titles = list(dict.fromkeys(entry.title for entry in shown))
    body = Text("\n\n").join(_body(entry, named=len(titles) > 1) for entry in shown)
    title = f"{len(shown)} problems" if len(titles) > 1 else titles[0]
    if len(shown) > 1 and len(titles) == 1:
        title += f": {len(shown)} problems"
    stopped = title == "stopped"
    Console(stderr=True).print(
        Panel(body, title=title, title_align="left", border_style="yellow" if stopped else "red")
    )


def _body(entry: Entry, *, named: bool) -> Text:
    from rich.text import Text

    body = Text(f"{entry.title}: {entry.what}" if named else entry.what, style="bold")
    for label, text in entry.details:
        body.append(f"\n{label:>8}  ", style="not bold cyan").append(text, style="not bold")
    return body
