"""What compiling took, told and counted apart."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch._dynamo.callback import CallbackArgs, callback_handler
from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerState

    from ft_hookspecs import Run


class CompileReport(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Listens to the compiler while training: its seconds are ``compile_seconds``, and not in the tokens per second.

    What compiles within another compilation counts once.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = 0.0
        self.told = 0.0
        self._since = 0.0
        self._pause = ExitStack()

    def begin(self, _: CallbackArgs) -> None:
        """The compiler starts."""
        self._since = perf_counter()
        if (throughput := getattr(self.run.trainer, "throughput", None)) is not None:
            self._pause.enter_context(throughput.paused())

    def end(self, _: CallbackArgs) -> None:
        """The compiler is done."""
        self.seconds += perf_counter() - self._since
        self._pause.close()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        callback_handler.register_start_callback(self.begin)
        callback_handler.register_end_callback(self.end)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """A step that compiled is slow, and says why."""
        if self.seconds > self.told:
            self.run.tell(f"compiling took {self.seconds - self.told:.1f} s of step {state.global_step}")
            self.told = self.seconds

    def on_train_end(self, *_: Any, **__: Any) -> None:
        callback_handler.remove_start_callback(self.begin)
        callback_handler.remove_end_callback(self.end)
        self.run.metrics["compile_seconds"] = round(self.seconds, 1)
