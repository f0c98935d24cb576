"""Whether each installed plugin can be imported, tried in a process apart: it may hang, exit or crash there.

The child tries them in order and writes one JSON line each. When it dies, the plugin it was at is to blame, and another
child goes on after it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import PluginInfo

SECONDS: Final = 60  # for all plugins together; a plugin's entry module is meant to import in milliseconds


class Outcome(NamedTuple):
    """How loading a plugin went: one line of ``blame``, empty when well; ``lacks`` when only a package is missing."""

    blame: str = ""
    remedy: str = ""
    lacks: bool = False


def outcomes(seconds: float = SECONDS) -> Iterator[tuple[PluginInfo, Outcome]]:
    """Each installed plugin with how loading it went.

    Args:
        seconds: that a child may take, for all plugins together.
    """
    from ft.plugins import find_plugins

    found = list(find_plugins())
    done = 0
    while done < len(found):
        lines, end = _try_from(done, seconds)
        yield from zip(found[done:], lines, strict=False)
        done += len(lines)
        if done < len(found):
            yield found[done], Outcome(end)
            done += 1


def _try_from(start: int, seconds: float) -> tuple[list[Outcome], str]:
    """The outcome of each plugin from ``start`` that the child came to the end of, and how the child ended."""
    command = [sys.executable, "-P", "-m", "ft.cli.probe", str(start)]  # -P: the working folder may hold another ft
    try:
        child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        return _read(output.decode() if isinstance(output, bytes) else output), f"not imported after {seconds:g} s"
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return _read(child.stdout), f"importing it ended the process with code {child.returncode}: {last}"


def _read(output: str) -> list[Outcome]:
    return [Outcome(*json.loads(line)) for line in output.splitlines() if line.endswith("]")]


def main(start: int) -> None:
    """In the child: one line a plugin on standard output, to which nothing else may be written."""
    from ft.plugins import find_plugins

    out = sys.stdout
    for info in list(find_plugins())[start:]:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = _load(info)
        out.write(json.dumps(outcome) + "\n")
        out.flush()


def _load(info: PluginInfo) -> Outcome:
    from ft.errors import EnvironmentProblem, FtError
    from ft.plugins import PluginManager

    try:
        PluginManager().load(info)
    except FtError as error:
        blame = ": ".join(part for part in (error.what, error.why) if part)
        return Outcome(" ".join(blame.split()), error.remedy, isinstance(error, EnvironmentProblem))
    return Outcome()


if __name__ == "__main__":
    main(int(sys.argv[1]))
