"""Evaluation as means over items, and means of what training notes along the way.

An item is what a loss is averaged over: a label, a pair, a sample. Shapes: E examples of a batch, M measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import Tensor

from ft.training.packing import per_sequence
from ft.training.streams import StreamingTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from transformers import EvalPrediction, Trainer

    from ft.training.engine import Engine
    from ft.training.packing import PackedBatch
    from ft_hookspecs import Run

TIMING: Final = ("_runtime", "_per_second", "_preparation_time")

Measure = tuple[Tensor, Tensor]
"""Of each example of a batch the sum over its items and the number of its items: (E,) and (E,)."""


class Averages:
    """Running means since they were last taken; sums stay on the device, so that nothing waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, items: Tensor | float | None = None) -> None:
        """Add the sum of ``values``, over ``items`` items; over as many as there are values when it is ``None``."""
        count = values.numel() if items is None else items
        both = torch.stack([values.detach().float().sum(), torch.as_tensor(count, device=values.device).float().sum()])
        self._sums[name] = self._sums[name] + both if name in self._sums else both

    def take(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The means, in the order of their names; ``reduce`` adds up those of all processes."""
        names, sums = sorted(self._sums), self._sums
        self._sums = {}
        totals = {name: reduce(sums[name]).tolist() for name in names}
        return {name: total / items for name, (total, items) in totals.items() if items}


class MeasuringTrainer(StreamingTrainer):
    """A trainer whose evaluation is a mean over items, exact over batches and processes of any size.

    Attributes:
        averages: what :meth:`loss` notes; logged, as means over all processes, with each row of training.
        with_error: the measures, of one item an example, whose standard error is reported too.
    """

    engine: Engine
    with_error: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.averages = Averages()
        self._measured: list[str] = []
        super().__init__(*args, **{"compute_metrics": self._means, **kwargs})

    def measure(self, model: nn.Module, batch: PackedBatch) -> Mapping[str, Measure]:
        """What evaluation reports, without gradients: ``loss`` and whatever else the stage defines."""
        losses = -self.engine.log_probs(batch, model)
        weights = batch.get("weights")
        losses = losses if weights is None else losses * weights
        return {"loss": (per_sequence(batch, losses), per_sequence(batch, torch.ones_like(losses)))}

    def prediction_step(
        self,
        model: nn.Module,
        inputs: PackedBatch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Sums and items of each measure: (E, M) and (E, M).

        A row for each example lets the loop drop those that a distributed sampler repeated.
        """
        batch: PackedBatch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            self.engine.check(batch, model)
            measures = self.measure(model, batch)
        self._measured = list(measures)
        sums, items = zip(*measures.values(), strict=True)
        return None, torch.stack([each.float() for each in sums], 1), torch.stack([each.float() for each in items], 1)

    def _means(self, prediction: EvalPrediction) -> dict[str, float]:
        sums, counts = (each.sum(0, dtype="float64") for each in (prediction.predictions, prediction.label_ids))
        totals = zip(self._measured, sums, counts, strict=True)
        means = {name: float(total / items) for name, total, items in totals if items}
        return means | {f"{name}_std_error": self._error(prediction, name) for name in self.with_error & means.keys()}

    def _error(self, prediction: EvalPrediction, name: str) -> float:
        """The standard error of a mean over examples; 0 for a single one."""
        values = prediction.predictions[:, self._measured.index(name)].astype("float64")
        return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def evaluate_measures(run: Run, trainer: Trainer, when: str) -> dict[str, float]:
    """Every measure of each evaluation set, named ``…_before`` before training; nothing without evaluation data.

    After training, what the trainer has measured at the last step is not measured again.
    """
    if not run.eval_datasets:
        return {}
    metrics: Mapping[str, float] = (when == "after" and _logged(trainer)) or trainer.evaluate()
    suffix = "_before" if when == "before" else ""
    return {
        f"{name}{suffix}": v for name, v in metrics.items() if name.startswith("eval_") and not name.endswith(TIMING)
    }


def evaluate_loss(run: Run, trainer: Trainer, when: str) -> dict[str, float]:
    """``eval_loss`` of each evaluation set alone; as :func:`evaluate_measures`."""
    metrics = evaluate_measures(run, trainer, when)
    return {name: value for name, value in metrics.items() if name.removesuffix("_before").endswith("_loss")}


def _logged(trainer: Trainer) -> dict[str, float]:
    """The evaluation of the weights as they are now, if it stands in the log; one set for a row."""
    if trainer.args.load_best_model_at_end:
        return {}
    last = [row for row in trainer.state.log_history if row.get("step") == trainer.state.global_step > 0]
    return {name: value for row in last for name, value in row.items() if name.startswith("eval_")}
