"""The one place where an exception becomes an exit code."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Report what a command raises on one screen, and end with the exit code of its kind.

    A closed pipe (``ft plugins list | head``) is left to typer, which ends quietly.
    """

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (BrokenPipeError, typer.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            from ft.cli.report import report

            raise typer.Exit(report(error, with_traceback=bool(kwargs.get("_traceback")))) from error

    return call
