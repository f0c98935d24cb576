"""The trainer of ``stage: dpo``: the answers of a pair compared by one of six losses.

Shapes: P pairs of a batch; its 2P sequences are chosen and rejected in turn. L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from ft.training import per_sequence
from ft_plugins.stages._trainers import preference_math
from ft_plugins.stages._trainers.pairs import number_of_pairs, pack_pairs
from ft_plugins.stages._trainers.preference import DivergenceTrainer, PreferenceTrainer, with_reference
from ft_plugins.stages.dpo import DpoOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import TrainerCallback

    from ft.training import PackedBatch
    from ft.training.measures import Measure
    from ft_hookspecs import Run


def build_trainer(run: Run, callbacks: Sequence[TrainerCallback]) -> DpoTrainer:
    """The trainer of a run; the reference, where the loss has one, stands as log-probabilities in the data."""
    options = run.plan.of(DpoOptions)
    kind = KtoPairTrainer if options.pref_loss == "kto_pair" else DpoTrainer
    trainer = kind.for_run(run, callbacks, options=options)
    if options.has_reference:
        with_reference(run, trainer)
        if isinstance(trainer.train_dataset, Dataset | None):
            trainer.release_reference()  # all that it has to say is known
    return trainer


class DpoTrainer(PreferenceTrainer):
    """Minimises the mean of a loss over pairs; the prompt of a pair is computed once."""

    options: DpoOptions

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        return pack_pairs(features)

    def items(self, batch: PackedBatch) -> int:
        return number_of_pairs(batch)

    def scores(self, batch: PackedBatch, log_probs: Tensor) -> Tensor:
        """What the loss compares, (P, 2), of the log-probabilities (L,)."""
        options, lengths = self.options, label_counts(batch)
        if options.has_reference:
            log_probs = log_probs - self.reference_log_probs(batch)
        if options.ld_alpha is not None:
            log_probs = log_probs * preference_math.length_weights(batch["sequence_of"], lengths, options.ld_alpha)
        scores = by_pair(batch, log_probs)
        return scores / lengths if options.is_per_token else scores

    def pair_losses(self, scores: Tensor) -> Tensor:
        """The loss of each pair, (P,), of its scores (P, 2)."""
        return preference_math.LOSSES[self.options.pref_loss](scores, self.options)

    def measure(self, model: nn.Module, batch: PackedBatch) -> Mapping[str, Measure]:
        options, log_probs = self.options, self.engine.log_probs(batch, model)
        scores, sums = self.scores(batch, log_probs), by_pair(batch, log_probs)
        losses, weight = self.pair_losses(scores), options.pref_bco_weight
        if weight:
            losses = (losses + weight * preference_math.bco(scores, options)) / (1 + weight)
        if options.pref_ftx:
            losses = losses - options.pref_ftx * (sums / label_counts(batch))[:, 0]
        rewards = options.pref_beta * scores
        values = {
            "loss": losses,
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/margins": preference_math.margin(rewards),
            "rewards/accuracies": (preference_math.margin(rewards) > 0).float(),
            "logps/chosen": sums[:, 0],
            "logps/rejected": sums[:, 1],
        }
        return {name: (value, torch.ones_like(value)) for name, value in values.items()}


class KtoPairTrainer(DivergenceTrainer, DpoTrainer):
    """The paired form of KTO, whose KL the answers themselves estimate; this costs one more forward pass a step."""

    def log_ratios(self, model: nn.Module, batch: PackedBatch) -> Tensor:
        return self.scores(batch, self.engine.log_probs(batch, model))

    def pair_losses(self, scores: Tensor) -> Tensor:
        return preference_math.kto_pair(scores, self.options, self.divergence)


def by_pair(batch: PackedBatch, values: Tensor) -> Tensor:
    """Sums of values (L,) over the labels of each answer: (P, 2)."""
    return per_sequence(batch, values).view(-1, 2)


def label_counts(batch: PackedBatch) -> Tensor:
    """Labels of each answer: (P, 2), float32."""
    return by_pair(batch, torch.ones_like(batch["targets"], dtype=torch.float32))
