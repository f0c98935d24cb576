"""The trainer: transformers' own loop with the engine's loss.

Accelerate, FSDP2, DeepSpeed, schedulers, callbacks and the training loop are transformers'. Replaced are the batch
(packed), the loss (normalised by the labels of the whole optimizer step), the evaluation loss (a mean over labels, not
over batches), the count of tokens, and the checkpoints.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ft.training.arguments import use_one_gpu
from ft.training.base import eval_dataset
from ft.training.engine import Engine
from ft.training.measures import MeasuringTrainer
from ft.training.neftune import noisy_embeddings
from ft.training.optimization import parameter_groups
from ft.training.packing import PackedBatch, pack
from ft.training.throughput import Throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Self

    from transformers import TrainerCallback, TrainingArguments

    from ft_hookspecs import Run


class PackedTrainer(MeasuringTrainer):
    """A ``transformers.Trainer`` whose step is packed wherever the model allows it.

    A stage with another loss overrides :meth:`loss`; :meth:`items` when it is no mean over labels; :meth:`collate` when
    its features are not sequences; and :meth:`measure` to evaluate more than the cross-entropy.

    Args:
        model: a causal language model, perhaps inside PEFT.
        args: as :func:`ft.training.arguments.training_arguments` makes them.
        attention: ``auto``, ``packed`` or ``padded``, see :class:`ft.training.engine.Engine`.
        decide: told each decision that is taken for the user.
        kwargs: ``optimizer_factory`` and ``parameter_groups`` of :class:`ft.training.base.RunTrainer`, and anything
            else of ``transformers.Trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        attention: Any = "auto",
        decide: Callable[[str], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        if attention != "padded" and args.torch_compile:
            decide("batches are padded: torch_compile would compile each packed batch again")
            attention = "padded"
        use_one_gpu(args, decide)  # a packed row cannot be scattered over replicas
        self.engine = Engine(model, attention, decide)
        self.throughput = Throughput()
        super().__init__(model, args, **{"data_collator": self.collate, **kwargs})
        self.neftune_noise_alpha = None  # transformers would scale the noise by the row, not by each sequence
        self.model_accepts_loss_kwargs = True  # the loss is normalised by the whole step, not by accumulation
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
            parameter_groups=partial(parameter_groups, run),
            decide=run.decide,
            train_dataset=run.train_dataset,
            eval_dataset=eval_dataset(run),
            processing_class=run.tokenizer,
            callbacks=list(callbacks),
            **kwargs,
        )

    # ---- what a stage may override

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        """A batch of features as one packed row."""
        return pack(features)

    def items(self, batch: PackedBatch) -> int:
        """How many items the loss of this batch is a sum over, known on the host: its labels."""
        return len(batch["targets"])

    def loss(self, model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
        """The loss of one micro-batch: a sum over its items, divided by the items of the whole optimizer step.

        What else is to be logged of the batch goes into ``self.averages``.
        """
        return self.engine.cross_entropy(batch, normaliser, model)

    # ---- training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: PackedBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """:meth:`loss`, scaled so that averaging gradients over processes makes it a mean over all their items."""
        self.engine.check(inputs, model)
        normaliser = self.items(inputs) if num_items_in_batch is None else num_items_in_batch
        with noisy_embeddings(self.model, inputs, self.args.neftune_noise_alpha):
            loss = self.loss(model, inputs, normaliser)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[PackedBatch], device: torch.device) -> Tensor:
        """The items of one optimizer step, over accumulation and processes; transformers would count labels."""
        items = torch.tensor(float(sum(map(self.items, batch_samples))), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self._over_processes(items)
        duplicates: int = self.get_tp_size() * self.get_cp_size() * self.get_sp_size()  # processes with the same batch
        return items / duplicates

    def training_step(self, model: nn.Module, inputs: PackedBatch, num_items_in_batch: Any = None) -> Tensor:
        self.throughput.add(inputs["input_ids"].shape[1])
        return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]  # untyped base

    def floating_point_ops(self, inputs: PackedBatch) -> int:
        """Six a token and dense parameter, as transformers counts, without walking all parameters each step."""
        return 6 * inputs["input_ids"].numel() * self._dense_parameters  # type: ignore[no-any-return]  # untyped base

    # ---- evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.throughput.paused():
            return super().evaluate(*args, **kwargs)  # type: ignore[no-any-return]  # untyped base

    # ---- logging and saving

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``tokens_per_second`` and ``num_input_tokens_seen``, over all processes, to each row of training."""
        if "loss" in logs:
            self.before_saving()
            logs.update(self.averages.take(self._over_processes))
            logs["tokens_per_second"] = round(self.throughput.rate(), 1)
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, start_time)

    def before_saving(self) -> None:
        """Move the tokens that are in no total yet, of all processes, into the state."""
        tokens, self.throughput.pending = self.throughput.pending, 0
        tokens = int(self._over_processes(torch.tensor(tokens, device=self.args.device)).item())
        self.throughput.counted += tokens
        self.state.num_input_tokens_seen += tokens

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self.accelerator.reduce(values) if self.args.world_size > 1 else values
        return total

    def saving(self) -> AbstractContextManager[None]:
        return self.throughput.paused()
