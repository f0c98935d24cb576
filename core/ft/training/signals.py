"""SIGTERM and SIGINT end a run at the end of a step, after saving."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from transformers import TrainerCallback

from ft.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped

if TYPE_CHECKING:
    from types import FrameType

    from transformers import TrainerControl, TrainerState, TrainingArguments

EXIT_CODES: Final = {signal.SIGTERM: EXIT_TERMINATED, signal.SIGINT: EXIT_INTERRUPTED}


class StopOnSignal(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Turns the first signal into a save and a stop after the running step; a second SIGINT ends the process at once.

    Handlers are set while training runs and put back after it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take over the signals; only the main thread of a process may."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in EXIT_CODES}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self._anywhere(args):
            control.should_save = True
            control.should_training_stop = True
        return control

    def raise_stopped(self, saved: str) -> NoReturn:
        """End the run for the signal that was received.

        Raises:
            Stopped: with the exit code of the signal and what was saved.
        """
        assert self.received is not None
        raise Stopped(self.received.name, EXIT_CODES[self.received], saved)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            self.restore()
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def _anywhere(self, args: TrainingArguments) -> bool:
        """Whether any process was told: a group must stop at the same step. Costs one small reduction a step there."""
        if args.world_size == 1:
            return self.received is not None
        told = torch.tensor(int(self.received or 0), device=args.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        number = int(told.item())
        self.received = signal.Signals(number) if number else None
        return self.received is not None
