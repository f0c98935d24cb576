"""What is told to a tracker about a run, how one is opened, and which ones ``report_to: all`` means."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.files import RECORD, json_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import EntryPoint

    from ft_hookspecs import Run

OWN_KEYS: Final = frozenset({"console", "jsonl", "plot_loss"})
"""Loggers that ``report_to`` does not select: two are always there, one has a key of its own."""


def run_name(run: Run) -> str:
    """``run_name``, or the name of the output folder."""
    return str(run.plan.get("run_name") or run.output_dir.resolve().name)


def settings(run: Run) -> dict[str, Any]:
    """The configuration as ``run.json`` holds it, which is without secrets."""
    config: dict[str, Any] = json_object(run.output_dir / RECORD)["config"]
    return config


@contextmanager
def unasked() -> Iterator[None]:
    """A tracker that finds no key asks at a terminal who the user is: a run must not wait for an answer."""
    own = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = own


def missing() -> dict[str, str]:
    """What ``report_to: all`` leaves out: each logger with a package that is not installed, and what to type for it."""
    return {entry.name: line for entry in loggers() if (line := _needs(entry))}


def loggers() -> list[EntryPoint]:
    """The installed loggers that ``report_to`` selects by name."""
    return sorted((entry for entry in entry_points(group="ft.loggers") if entry.name not in OWN_KEYS), key=str)


def _needs(entry: EntryPoint) -> str:
    """What to type for the packages of the extra that is called like the logger; nothing where they are installed.

    Its distribution's metadata say which they are: no logger is imported to be asked.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if entry.dist is None:
        return ""
    extra = canonicalize_name(entry.name)
    requirements = map(Requirement, entry.dist.requires or ())
    needed = [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": extra})]
    return "" if all(map(_installed, needed)) else f"pip install '{entry.dist.name}[{extra}]'"


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
