"""Rows of metrics: what the trainer logs, on its way to the loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ft.plugins import PluginManager
    from ft_hookspecs import Run

SUMMARY: Final = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")


class RowCallback(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Passes each log of the trainer to ``ft_log``, in the main process, isolated: a logger cannot stop a run."""

    def __init__(self, run: Run, plugins: PluginManager) -> None:
        self.run = run
        self.plugins = plugins

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A warm-up that does not end leaves a learning rate that was never asked for."""
        if (warmup := args.get_warmup_steps(state.max_steps)) >= state.max_steps > 0:
            self.run.decide(f"the warm-up of {warmup} steps is not over when the run ends, after {state.max_steps}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The last step is logged whatever ``logging_steps``: a short run has a loss too."""
        control.should_log = control.should_log or state.global_step >= state.max_steps
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or state.global_step < (self.run.resumed_step or 0):
            return  # what is measured before the step of a resumed run stands in the rows already
        if "train_runtime" in logs:  # the trainer's own summary: part of the final row, not a row
            trained = state.global_step > (self.run.resumed_step or 0)  # else the mean of no losses would be 0
            told = SUMMARY if trained else SUMMARY[:-1]
            self.run.metrics.update({name: logs[name] for name in told if name in logs})
            return
        event = "train" if "loss" in logs else "eval"
        self.plugins.isolated("ft_log", run=self.run, row={"event": event, "step": state.global_step, **logs})


def final_row(run: Run) -> dict[str, Any]:
    """The last row of ``metrics.jsonl``: every metric of the run."""
    step = run.trainer.state.global_step if run.trainer is not None else 0
    return {"event": "final", "step": step, **run.metrics}
