"""What can go wrong, the exit code of each, and words that messages share.

::

    FtError                     1   never raised as such
    ├── ConfigError             2   a key, a value or a combination
    ├── PluginError             3   a plugin is missing, ambiguous, broken or at fault
    ├── DataError               4   a file, a row, a template
    ├── EnvironmentProblem      5   a package, a device, a permission, a network
    └── TrainingError           6   the run itself failed (NaN, out of memory, a bug)

    Stopped                   143 / 130   ended by SIGTERM / SIGINT after saving

Every error is shown on one screen: what, where (``file:line``), why, remedy. A traceback is never shown to a user
unless ``--traceback`` asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ft_hookspecs import PluginInfo, Problem

EXIT_DONE: Final = 0
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


class FtError(Exception):
    """An error with the four things a reader needs.

    Args:
        what: one sentence, what is wrong.
        where: ``file:line``, a flag or a plugin; empty when there is no place.
        why: the rule that was broken.
        remedy: what to write, type or install instead.
    """

    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "error"
    plugin: PluginInfo | None = None
    """Whose hook raised it, set on the way out of the hook."""

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        for label in ("where", "why", "remedy"):
            text = getattr(self, label)
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class ConfigError(FtError):
    """A key, a value or a combination of them is wrong."""

    exit_code = 2
    title = "configuration"


class PluginError(FtError):
    """A plugin is missing, ambiguous, written for another API, or raised; the message names it."""

    exit_code = 3
    title = "plugin"


class DataError(FtError):
    """A data file, a row of it, or a template is wrong; ``where`` is ``file:line``."""

    exit_code = 4
    title = "data"


class EnvironmentProblem(FtError):
    """The machine lacks something: a package, a device, a permission, disk space, a network."""

    exit_code = 5
    title = "environment"


class TrainingError(FtError):
    """Training itself failed."""

    exit_code = 6
    title = "training"


class Problems(FtError):
    """Several problems of one report, shown together; the exit code is that of the first."""

    title = "configuration"

    def __init__(self, problems: list[FtError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.exit_code = problems[0].exit_code  # type: ignore[misc]  # the one error whose code depends on its parts

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Stopped(Exception):
    """The run was stopped by a signal and has saved what it had."""

    def __init__(self, signal_name: str, exit_code: int, saved: str) -> None:
        super().__init__(f"stopped by {signal_name}; saved {saved}")
        self.signal_name = signal_name
        self.exit_code = exit_code
        self.saved = saved


# ---- words --------------------------------------------------------------------------------------------------------

_ALIKE: Final = 60
"""Share of equal letters, in percent, from which a word counts as a slip of another."""


def nearest(word: str, known: Iterable[object], limit: int = 1) -> list[str]:
    """Up to ``limit`` of the known words that ``word`` is probably a slip of, the most alike first."""
    from rapidfuzz import fuzz, process, utils

    words = sorted(set(map(str, known)))
    found = process.extract(
        word, words, scorer=fuzz.ratio, processor=utils.default_process, score_cutoff=_ALIKE, limit=limit
    )
    return [match for match, *_ in found]


def did_you_mean(word: str, known: Iterable[object], limit: int = 1) -> str:
    """``did you mean 'x'?``, or nothing when no known word is like it."""
    found = nearest(word, known, limit)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def first_line(error: BaseException) -> str:
    """The first line that a foreign error says, or the name of its type when it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def refusals(ask: Callable[[], object], *keys: str) -> list[Problem]:
    """What ``ask`` refuses later on, found while planning: its :class:`ConfigError` as a problem of these keys."""
    from ft_hookspecs import Problem

    try:
        ask()
    except ConfigError as error:
        return [Problem(error.what, error.why, error.remedy, keys)]
    return []
