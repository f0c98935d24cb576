"""Whether each installed plugin can be imported, tried in a process apart: it may hang, exit or crash there.

The child tries them in order and writes one JSON line each. When it dies, the plugin it was at is to blame, and another
child goes on after it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import PluginInfo

SECONDS: Final = 60  # for all plugins together; a plugin's entry module is meant to import in milliseconds


def outcomes(seconds: float = SECONDS) -> Iterator[tuple[PluginInfo, str]]:
    """Each installed plugin with one line of blame, which is empty when it can be loaded."""
    from ft.plugins import find_plugins

    found = list(find_plugins().all())
    done = 0
    while done < len(found):
        lines, end = _try_from(done, seconds)
        yield from zip(found[done:], lines, strict=False)
        done += len(lines)
        if done < len(found):
            yield found[done], end
            done += 1


def _try_from(start: int, seconds: float) -> tuple[list[str], str]:
    """The blame of each plugin from ``start`` that the child came to the end of, and how the child ended."""
    command = [sys.executable, "-P", "-m", "ft.cli.probe", str(start)]  # -P: the working folder may hold another ft
    try:
        child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        return _blames(output.decode() if isinstance(output, bytes) else output), f"not imported after {seconds:g} s"
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return _blames(child.stdout), f"importing it ended the process with code {child.returncode}: {last}"


def _blames(output: str) -> list[str]:
    return [str(json.loads(line)) for line in output.splitlines() if line.endswith('"')]


def main(start: int) -> None:
    """In the child: one line a plugin on standard output, to which nothing else may be written."""
    from ft.plugins import find_plugins

    out = sys.stdout
    for info in list(find_plugins().all())[start:]:
        with contextlib.redirect_stdout(sys.stderr):
            blame = _blame(info)
        out.write(json.dumps(blame) + "\n")
        out.flush()


def _blame(info: PluginInfo) -> str:
    from ft.errors import FtError
    from ft.plugins import PluginManager

    try:
        PluginManager().load(info)
    except FtError as error:
        return ": ".join(part for part in (error.what, error.why) if part)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
