"""What every trainer of a run does around transformers' loop, whatever its batches are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import PrinterCallback

from ft.errors import ConfigError, did_you_mean
from ft.training.arguments import refused
from ft.training.saving import SavingTrainer
from ft.training.signals import StopOnSignal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn
    from torch.optim import Optimizer

    from ft_hookspecs import Run


class RunTrainer(SavingTrainer):
    """A trainer that a signal ends well, whose optimizer is the run's, and whose best metric must be measured.

    A trainer of another library joins a run by standing behind this one: ``class Ours(RunTrainer, TheirTrainer)``.

    Args:
        optimizer_factory: makes the optimizer; ``None`` from it leaves the choice to ``args.optim``.
        parameter_groups: what that optimizer is made of; ``None``: transformers' two groups.
        args, kwargs: of the trainer that stands behind.
    """

    def __init__(
        self,
        *args: Any,
        optimizer_factory: Callable[[nn.Module], Optimizer | None] | None = None,
        parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.optimizer_factory = optimizer_factory
        self.parameter_groups = parameter_groups
        self.stopper = StopOnSignal()
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.stopper)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The factory's, else that of ``optim``, made of the groups of this run."""
        model = self.model if model is None else model
        if getattr(self, "optimizer", None) is None and self.optimizer_factory is not None:
            self.optimizer = self.optimizer_factory(model)
        with refused(f"optim: {self.args.optim}"):
            if getattr(self, "optimizer", None) is None and self.parameter_groups is not None:
                kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, model)
                self.optimizer_cls_and_kwargs = kind, {**arguments, "params": self.parameter_groups(model)}
            return super().create_optimizer(model)  # type: ignore[no-any-return]  # untyped base

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """As transformers', whose schedule must have ended when the run does."""
        words: Any = self.args.lr_scheduler_kwargs or {}
        fall, warmup = words.get("num_decay_steps", 0), self.args.get_warmup_steps(num_training_steps)
        left = num_training_steps - warmup
        if fall > max(0, left):
            raise ConfigError(
                f"num_decay_steps is {fall}, and behind the warm-up the run has {left} of {num_training_steps} steps",
                where="lr_scheduler_kwargs",
                why="the learning rate would begin in the middle of its fall",
                remedy=f"set num_decay_steps to at most {left}" if left > 0 else "lower warmup_steps",
            )
        with refused(f"lr_scheduler_type: {self.args.lr_scheduler_type}"):
            return super().create_scheduler(num_training_steps, optimizer)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """None where no gradient is left: a layerwise optimizer has used them up, and zero would be a false figure."""
        if all(parameter.grad is None for parameter in model.parameters()):
            return None
        return super()._get_grad_norm(model, grad_norm)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', but a SIGTERM or SIGINT saves and ends it.

        Raises:
            Stopped: after saving, with the exit code of the signal.
        """
        self.stopper.install()
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.stopper.restore()
        if self.stopper.received is not None:
            saved = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if not saved.exists():  # the signal came after the last step
                self._save_checkpoint(self.model, None)
            self.stopper.raise_stopped(str(saved))
        if callable(settle := getattr(self.optimizer, "eval", None)):
            settle()  # an optimizer without a schedule trains other weights than those it finds: a mean of them
        return output

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing once all steps are done: transformers would train a finished run that is resumed one step more."""
        if self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)  # type: ignore[no-any-return]  # untyped base
        except KeyError as error:
            raise self._unmeasured(metrics) from error

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers', whose schedule on a plateau looks for the metric too."""
        try:
            return super()._evaluate(*args, **kwargs)  # type: ignore[no-any-return]  # untyped base
        except KeyError as error:
            if "metric_for_best_model" not in str(error):
                raise
            last = (row for row in self.state.log_history if row.get("step") == self.state.global_step)
            raise self._unmeasured([name for row in last for name in row if name.startswith("eval_")]) from error

    def _unmeasured(self, metrics: Iterable[str]) -> ConfigError:
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        measured = sorted(key for key in metrics if key != "epoch" and not key.endswith(("_runtime", "_per_second")))
        return ConfigError(
            f"metric_for_best_model: eval_{name} is not measured",
            why=f"the evaluation gives {', '.join(measured)}",
            remedy=did_you_mean(name, measured) or "name one of them",
        )


def eval_dataset(run: Run) -> Any:
    """One set plainly, so that its loss is ``eval_loss``; several by name, as ``eval_<name>_loss``."""
    sets = list(run.eval_datasets.values())
    return sets[0] if len(sets) == 1 else run.eval_datasets or None
