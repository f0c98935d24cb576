"""The trainer of ``stage: rm``: a value head that scores a better answer above a worse one.

Shapes: P pairs of a batch; its 2P sequences are chosen and rejected in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ft.training import PackedTrainer
from ft.training.measures import TIMING
from ft_plugins.stages._trainers.pairs import number_of_pairs, pack_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasets import Dataset
    from torch import nn

    from ft.training import PackedBatch
    from ft.training.measures import Measure

CHOSEN: Final = "rewards/chosen"
REJECTED: Final = "rewards/rejected"


class PairwiseTrainer(PackedTrainer):
    """Minimises the mean over pairs of -log σ(r_chosen - r_rejected) (Ouyang et al. 2022, arXiv:2203.02155, eq. 1)."""

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        return pack_pairs(features)

    def items(self, batch: PackedBatch) -> int:
        return number_of_pairs(batch)

    def scores(self, model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Of the chosen and of the rejected answers at their last tokens: (P,) and (P,), fp32."""
        scores = self.engine.scores(batch, self.engine.base.v_head, model)
        return scores[0::2], scores[1::2]

    def loss(self, model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
        chosen, rejected = self.scores(model, batch)
        for name, values in pair_metrics(chosen.detach(), rejected.detach()).items():
            self.averages.add(name, values)
        return pairwise_losses(chosen, rejected).sum() / normaliser

    def measure(self, model: nn.Module, batch: PackedBatch) -> Mapping[str, Measure]:
        chosen, rejected = self.scores(model, batch)
        values = {"loss": pairwise_losses(chosen, rejected), **pair_metrics(chosen, rejected)}
        return {name: (value, torch.ones_like(chosen)) for name, value in values.items()}

    def _get_eval_sampler(self, eval_dataset: Dataset) -> None:
        """In order, also with ``group_by_length``: predictions stand in the order of the data."""

    def predictions(self, dataset: Dataset, prefix: str) -> tuple[list[dict[str, float]], dict[str, float]]:
        """Both scores of each pair of a data set in order, and the means under ``prefix``."""
        output = self.predict(dataset, metric_key_prefix=prefix)
        columns = [self._measured.index(name) for name in (CHOSEN, REJECTED)]
        rows = [{"chosen": better, "rejected": worse} for better, worse in output.predictions[:, columns].tolist()]
        return rows, {name: value for name, value in output.metrics.items() if not name.endswith(TIMING)}


def pairwise_losses(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log σ(r_chosen - r_rejected) of each pair (P,): the Bradley–Terry model's negative log-likelihood."""
    return -logsigmoid(chosen - rejected)


def pair_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """What is reported of each pair (P,). Equal scores are no success."""
    return {
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        CHOSEN: chosen,
        REJECTED: rejected,
    }
