"""``ft doctor``: what was found, what is wrong, and what to do about it."""

from __future__ import annotations

from collections import Counter
from typing import Final

import typer

from ft.cli.checks import Finding, findings
from ft.cli.text import echo_json, heading, paint
from ft.errors import EXIT_DONE, EnvironmentProblem

COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def show(*, as_json: bool) -> int:
    """Print every finding as it is made and return the exit code: 5 when one of them is a failure."""
    found = []
    for finding in findings():
        found.append(finding)
        if not as_json:
            _print(finding, new_topic=len(found) == 1 or finding.topic != found[-2].topic)
    if as_json:
        echo_json([finding._asdict() for finding in found])
    else:
        counts = Counter(finding.status for finding in found)
        typer.echo(f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failures")
    failed = any(finding.status == "fail" for finding in found)
    return EnvironmentProblem.exit_code if failed else EXIT_DONE


def _print(finding: Finding, *, new_topic: bool) -> None:
    if new_topic:
        heading(finding.topic)
    typer.echo(f"  {paint(finding.status.ljust(4), COLOURS[finding.status])}  {finding.message}")
    if finding.remedy:
        typer.echo(f"        {finding.remedy}")
