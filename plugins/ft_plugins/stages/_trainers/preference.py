"""What the trainers of dpo and kto share: a loss that is one of the measures, a reference, and a KL of the whole step.

Shapes: E examples of a batch (pairs, or judged answers), L labels, K estimates of the KL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from datasets import Dataset
from torch import Tensor

from ft.training import PackedTrainer, evaluating, precompute, reference_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.utils.data import DataLoader

    from ft.training import PackedBatch, Reference
    from ft_hookspecs import Run


class PreferenceTrainer(PackedTrainer):
    """Minimises the mean of ``measure()["loss"]`` over the examples of the whole step; the other measures are logged.

    Args:
        options: of the stage.
        reference: what the policy is compared with, where the batches do not bring its log-probabilities along.
    """

    def __init__(self, *args: Any, options: Any, reference: Reference | None = None, **kwargs: Any) -> None:
        self.options = options
        self.reference = reference
        super().__init__(*args, **kwargs)

    def loss(self, model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
        measures = dict(self.measure(model, batch))
        losses, _ = measures.pop("loss")
        for name, (sums, items) in measures.items():
            self.averages.add(name, sums, items.sum())
        return losses.sum() / normaliser

    def reference_log_probs(self, batch: PackedBatch) -> Tensor:
        """Of each label by the reference, (L,): as the batch says, else computed now."""
        if "reference" in batch:
            return batch["reference"]
        assert self.reference is not None
        with self.reference.applied() as model:
            return self.engine.log_probs(batch, model)

    def release_reference(self) -> None:
        """Let the memory of the reference go."""
        if self.reference is not None:
            self.engine.forget(self.reference.model)
        self.reference = None


class DivergenceTrainer(PreferenceTrainer):
    """A loss that depends on the KL of policy and reference, estimated on the whole optimizer step of all processes.

    It is known before the step's first micro-batch, so that how a step is cut up does not change it, and has no
    gradient. In evaluation it is that of the whole data set.

    Attributes:
        divergence: (K,), at least 0.
    """

    divergence: Tensor

    def log_ratios(self, model: nn.Module, batch: PackedBatch) -> Tensor:
        """What the KL is the mean of: (E, K)."""
        raise NotImplementedError

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            ratios = torch.cat([self._log_ratios(batch) for batch in batches])
            sums = self._over_processes(torch.cat([ratios.sum(0), ratios.new_tensor([len(ratios)])]))
            self.divergence = (sums[:-1] / sums[-1]).clamp(min=0)
        return batches, items

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> Any:
        gathered = [self.accelerator.gather_for_metrics(self._log_ratios(batch)) for batch in dataloader]
        self.divergence = torch.cat(gathered).mean(0).clamp(min=0)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def _log_ratios(self, batch: PackedBatch) -> Tensor:
        batch, model = self._prepare_inputs(batch), self.model_wrapped
        with evaluating(model), torch.no_grad(), self.compute_loss_context_manager():
            self.engine.check(batch, model)
            return self.log_ratios(model, batch)


Trainer = TypeVar("Trainer", bound=PreferenceTrainer)


def with_reference(run: Run, trainer: Trainer) -> Trainer:
    """The trainer with the run's reference, whose log-probabilities stand in its data unless that is a stream."""
    trainer.reference = reference = reference_for(run)

    def known(dataset: Any) -> Any:
        return precompute(run, trainer, reference, dataset) if isinstance(dataset, Dataset) else dataset

    change_data(trainer, known)
    return trainer


def change_data(trainer: PreferenceTrainer, change: Callable[[Any], Any]) -> None:
    """Replace each data set of a trainer, for training and for evaluation, by what ``change`` makes of it."""
    if trainer.train_dataset is not None:
        trainer.train_dataset = change(trainer.train_dataset)
    if isinstance(trainer.eval_dataset, dict):
        trainer.eval_dataset = {name: change(dataset) for name, dataset in trainer.eval_dataset.items()}
    elif trainer.eval_dataset is not None:
        trainer.eval_dataset = change(trainer.eval_dataset)
