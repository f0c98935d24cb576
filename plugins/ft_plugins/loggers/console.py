"""Progress on the console: step, loss, learning rate, tokens a second and time left, every ``logging_steps``."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from ft_hookspecs import Run, StashKey, hookimpl
from ft_plugins.loggers._display import Bar, Display, Lines
from ft_plugins.loggers._trackers import missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainerCallback

DISPLAY: Final = StashKey[Display]("console: what shows the run")


@hookimpl
def ft_callbacks(run: Run) -> list[TrainerCallback]:
    """A callback that moves the display at every step; and what ``report_to: all`` could not mean is said."""
    for name, line in missing().items() if "all" in (run.plan.get("report_to") or ()) else ():
        run.decide(f"report_to: all leaves {name} out, which needs: {line}")
    return [_callback(_display(run))]


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    _display(run).row(row)


@hookimpl
def ft_run_finished(run: Run) -> None:
    _display(run).close()


@hookimpl
def ft_run_failed(run: Run) -> None:
    """Give the terminal back, so that the error is not drawn over."""
    _display(run).close()


def _display(run: Run) -> Display:
    if DISPLAY not in run.stash:
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        run.stash[DISPLAY] = Bar() if terminal else Lines()
        atexit.register(run.stash[DISPLAY].close)  # a bar hides the cursor: bring it back however the process ends
    return run.stash[DISPLAY]


def _callback(display: Display) -> TrainerCallback:
    """The class is made here because its base costs an import of transformers."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is not followed by mypy
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                display.begin(state.global_step, state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                display.advance(state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.close()

    return Steps()
