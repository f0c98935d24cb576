"""What is told to a tracker about a run, and which trackers ``report_to: all`` means."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ft_hookspecs import Run

OWN_KEYS: Final = frozenset({"console", "jsonl", "plot_loss"})
"""Loggers that ``report_to`` does not select: two are always there, one has a key of its own."""


def run_name(run: Run) -> str:
    """``run_name``, or the name of the output folder."""
    return str(run.plan.get("run_name") or run.output_dir.resolve().name)


def settings(run: Run) -> dict[str, Any]:
    """The configuration as ``run.json`` holds it, which is without secrets."""
    record = json.loads((run.output_dir / "run.json").read_text(encoding="utf-8"))
    config: dict[str, Any] = record["config"]
    return config


def missing() -> dict[str, str]:
    """What ``report_to: all`` leaves out: each logger with a package that is not installed, and what to type for it."""
    return {entry.name: line for entry in loggers() if (line := _needs(entry))}


def loggers() -> list[EntryPoint]:
    """The installed loggers that ``report_to`` selects by name."""
    return sorted((entry for entry in entry_points(group="ft.loggers") if entry.name not in OWN_KEYS), key=str)


def _needs(entry: EntryPoint) -> str:
    """The first line to type, of a plugin that names its packages; one that is broken is judged when it is selected."""
    try:
        packages = getattr(entry.load(), "ft_requires", {})
    except Exception:  # whatever it is, its selection will say so with blame
        return ""
    return next((line for package, line in packages.items() if find_spec(package) is None), "")
