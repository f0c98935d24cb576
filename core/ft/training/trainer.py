"""The trainer: transformers' own loop with the engine's loss.

Accelerate, FSDP2, DeepSpeed, schedulers, callbacks and the training loop are transformers'. Replaced are the batch
(packed), the loss (normalised by the labels of the whole optimizer step), the evaluation loss (a mean over labels, not
over batches), the count of tokens, and the checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.trainer_callback import PrinterCallback

from ft.errors import ConfigError, did_you_mean
from ft.training.arguments import refused
from ft.training.engine import Engine
from ft.training.packing import PackedBatch, pack, per_sequence
from ft.training.saving import SavingTrainer
from ft.training.signals import StopOnSignal
from ft.training.throughput import Throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Self

    from torch.optim import Optimizer
    from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

    from ft_hookspecs import Run


class PackedTrainer(SavingTrainer):
    """A ``transformers.Trainer`` whose step is packed wherever the model allows it.

    A stage with another loss overrides :meth:`loss`, and :meth:`collate` when its features are not sequences.

    Args:
        model: a causal language model, perhaps inside PEFT.
        args: as :func:`ft.training.arguments.training_arguments` makes them.
        attention: ``auto``, ``packed`` or ``padded``, see :class:`ft.training.engine.Engine`.
        optimizer_factory: makes the optimizer; ``None`` from it leaves the choice to ``args.optim``.
        decide: told each decision that is taken for the user.
        kwargs: anything else of ``transformers.Trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        attention: Any = "auto",
        optimizer_factory: Callable[[nn.Module], Optimizer | None] | None = None,
        decide: Callable[[str], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        if attention != "padded" and args.torch_compile:
            decide("batches are padded: torch_compile would compile each packed batch anew")
            attention = "padded"
        if args.n_gpu > 1:
            args._n_gpu = 1  # a packed row cannot be scattered over replicas, and DDP is faster than DataParallel
            decide("one GPU is used: start one process a GPU (launcher: torchrun) to use more")
        self.engine = Engine(model, attention, decide)
        self.optimizer_factory = optimizer_factory
        self.throughput = Throughput()
        self.stopper = StopOnSignal()
        super().__init__(model, args, **{"data_collator": self.collate, "compute_metrics": label_mean, **kwargs})
        self.remove_callback(PrinterCallback)
        self.add_callback(self.stopper)
        self.model_accepts_loss_kwargs = True  # so that the labels of the whole step are counted, whichever model
        self._dense_parameters = self.model.num_parameters(exclude_embeddings=True)

    @classmethod
    def for_run(cls, run: Run, callbacks: Sequence[TrainerCallback], **kwargs: Any) -> Self:
        """The trainer of a run: its model, data, arguments and the optimizer hook."""
        from ft.training.arguments import training_arguments

        assert run.model is not None
        return cls(
            run.model,
            training_arguments(run),
            attention=run.plan.get("attention", "auto"),
            optimizer_factory=run.make_optimizer,
            decide=run.decide,
            train_dataset=run.train_dataset,
            eval_dataset=_eval_dataset(run),
            processing_class=run.tokenizer,
            callbacks=list(callbacks),
            **kwargs,
        )

    # ---- what a stage may override

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        """A batch of features as one packed row."""
        return pack(features)

    def loss(self, model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
        """The loss of one micro-batch: a sum over it, divided by the labels of the whole optimizer step."""
        return self.engine.cross_entropy(batch, normaliser, model)

    # ---- training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: PackedBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """:meth:`loss`, scaled so that averaging gradients over processes makes it a mean over all their labels."""
        self.engine.check(inputs, model)
        normaliser = len(inputs["targets"]) if num_items_in_batch is None else num_items_in_batch
        loss = self.loss(model, inputs, normaliser)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, {}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: PackedBatch, num_items_in_batch: Any = None) -> Tensor:
        self.throughput.add(inputs["input_ids"].shape[1])
        return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]  # untyped base

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if getattr(self, "optimizer", None) is None and self.optimizer_factory is not None:
            self.optimizer = self.optimizer_factory(self.model if model is None else model)
        with refused(f"optim: {self.args.optim}"):
            return super().create_optimizer(model)  # type: ignore[no-any-return]  # untyped base

    def floating_point_ops(self, inputs: PackedBatch) -> int:
        """Six a token and dense parameter, as transformers counts, without walking all parameters each step."""
        return 6 * inputs["input_ids"].numel() * self._dense_parameters  # type: ignore[no-any-return]  # untyped base

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
        return output

    # ---- evaluation

    def prediction_step(
        self,
        model: nn.Module,
        inputs: PackedBatch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Σ -log p(label) and the number of labels of each sequence: (S,) and (S,).

        A row for each example lets the loop drop those that a distributed sampler repeated.
        """
        batch: PackedBatch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            self.engine.check(batch, model)
            losses = -self.engine.log_probs(batch, model)
        weights = batch.get("weights")
        losses = losses if weights is None else losses * weights
        return None, per_sequence(batch, losses), per_sequence(batch, torch.ones_like(losses))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.throughput.paused():
            return super().evaluate(*args, **kwargs)  # type: ignore[no-any-return]  # untyped base

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)  # type: ignore[no-any-return]  # untyped base
        except KeyError as error:
            name = str(self.args.metric_for_best_model).removeprefix("eval_")
            measured = sorted(key for key in metrics if not key.endswith(("_runtime", "_per_second")))
            raise ConfigError(
                f"metric_for_best_model: eval_{name} is not measured",
                why=f"the evaluation gives {', '.join(measured)}",
                remedy=did_you_mean(name, measured) or "name one of them",
            ) from error

    # ---- logging and saving

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``tokens_per_second`` and ``num_input_tokens_seen``, over all processes, to each row of training."""
        if "loss" in logs:
            self.before_saving()
            logs["tokens_per_second"] = round(self.throughput.rate(), 1)
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, start_time)

    def before_saving(self) -> None:
        """Move the tokens that are in no total yet, of all processes, into the state."""
        tokens, self.throughput.pending = self.throughput.pending, 0
        if self.args.world_size > 1:
            tokens = int(self.accelerator.reduce(torch.tensor(tokens, device=self.args.device)).item())
        self.throughput.counted += tokens
        self.state.num_input_tokens_seen += tokens

    def saving(self) -> AbstractContextManager[None]:
        return self.throughput.paused()


def label_mean(prediction: EvalPrediction) -> dict[str, float]:
    """The mean loss over every label of the evaluation data."""
    return {"loss": float(prediction.predictions.sum() / prediction.label_ids.sum())}


def _eval_dataset(run: Run) -> Any:
    """One set plainly, so that its loss is ``eval_loss``; several by name, as ``eval_<name>_loss``."""
    sets = list(run.eval_datasets.values())
    return sets[0] if len(sets) == 1 else run.eval_datasets or None


def evaluate_loss(run: Run, trainer: Trainer, when: str) -> dict[str, float]:
    """``eval_loss`` of each evaluation set, named ``…_before`` before training; nothing without evaluation data.

    After training, what the trainer has measured at the last step is not measured again.
    """
    if not run.eval_datasets:
        return {}
    metrics: Mapping[str, float] = (when == "after" and _measured(trainer)) or trainer.evaluate()
    suffix = "_before" if when == "before" else ""
    return {f"{name}{suffix}": value for name, value in metrics.items() if name.endswith("_loss")}


def _measured(trainer: Trainer) -> dict[str, float]:
    """The evaluation of the weights as they are now, if it stands in the log; one set for a row."""
    if trainer.args.load_best_model_at_end:
        return {}
    last = [row for row in trainer.state.log_history if row.get("step") == trainer.state.global_step > 0]
    measured = {name: value for row in last for name, value in row.items() if name.startswith("eval_")}
    return measured if any(name.endswith("_loss") for name in measured) else {}
