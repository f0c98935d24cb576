"""The trainer of ``stage: kto``: single answers judged good or bad, against a KL that mismatched answers estimate.

Shapes: E answers of a batch, L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ft.data import IGNORE
from ft.options import DataOptions
from ft.training import PackedBatch, pack, per_sequence
from ft.training.measures import Averages
from ft_plugins.stages._trainers import preference_math
from ft_plugins.stages._trainers.preference import DivergenceTrainer, change_data, with_reference
from ft_plugins.stages.kto import KtoOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import datasets
    from torch import nn
    from torch.utils.data import DataLoader, Sampler
    from transformers import EvalPrediction, TrainerState

    from ft.training.measures import Measure
    from ft_hookspecs import Run

Feature = dict[str, Any]


def build_trainer(run: Run, callbacks: Sequence[TrainerCallback]) -> KtoTrainer:
    """The trainer of a run, with the reference's log-probabilities of the matched answers computed."""
    trainer = with_reference(run, KtoTrainer.for_run(run, callbacks, options=run.plan.of(KtoOptions)))
    seed, cutoff_len = run.plan.get("seed", 42), run.plan.of(DataOptions).cutoff_len
    change_data(trainer, lambda samples: Mismatched(samples, seed, cutoff_len))
    return trainer


class Mismatched(Dataset[Feature]):
    """Judged answers, each with the answer to another prompt beside it, drawn anew each epoch.

    Args:
        samples: as :func:`ft.data.prepare_feedback` makes them, at least two.
        seed: of the draws, with the number of the epoch.
        cutoff_len: the other answer is cut off where prompt and answer are longer than this; a prompt is shorter.
    """

    def __init__(self, samples: datasets.Dataset, seed: int, cutoff_len: int) -> None:
        self.samples = samples
        self.seed = seed
        self.cutoff_len = cutoff_len
        self.epoch = torch.zeros((), dtype=torch.long)
        self.epoch.share_memory_()  # type: ignore[no-untyped-call]  # torch's gap; seen by workers that outlive an epoch
        self._drawn: tuple[int, list[int]] = (-1, [])

    def draw(self, epoch: int) -> None:
        """From now on, the other answers are those of this epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Feature:
        sample, other = self.samples[index], self.samples[self._partners()[index]]
        room = self.cutoff_len - len(sample["prompt_ids"])
        return {**sample, **{f"other_{what}": other[f"answer_{what}"][:room] for what in ("ids", "labels")}}

    def _partners(self) -> list[int]:
        epoch = int(self.epoch)
        if self._drawn[0] != epoch:
            self._drawn = epoch, partners(len(self), self.seed, epoch)
        return self._drawn[1]


class DrawEachEpoch(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Tells the training data its epoch: accelerate does not with several processes, nor on resuming within one."""

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: Any, *, train_dataloader: DataLoader[Any], **_: Any
    ) -> None:
        cast("Mismatched", train_dataloader.dataset).draw(int(state.epoch or 0))


def partners(count: int, seed: int, epoch: int) -> list[int]:
    """For each of ``count`` samples another one, each once: the next one in a random circle of all."""
    circle = torch.randperm(count, generator=torch.Generator().manual_seed((seed << 20) + epoch))
    return torch.empty_like(circle).scatter_(0, circle, circle.roll(-1)).tolist()


class JudgedBatch(PackedBatch):
    """Answers after their prompts."""

    desirable: Tensor
    """(E,) bool"""
    other: NotRequired[PackedBatch]
    """The mismatched answers, after the same prompts; absent while the reference of the answers is computed."""


class KtoTrainer(DivergenceTrainer):
    """Minimises the mean over answers of KTO's loss."""

    options: KtoOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.averages = AveragesWithMargin()
        self.add_callback(DrawEachEpoch())

    def collate(self, features: Sequence[Mapping[str, Any]]) -> JudgedBatch:
        desirable = torch.tensor([feature["desirable"] for feature in features])
        answers = pack([as_sequence(feature, "answer") for feature in features])
        batch = cast("JudgedBatch", {**answers, "desirable": desirable})
        if "other_ids" in features[0]:
            batch["other"] = pack([as_sequence(feature, "other") for feature in features])
        return batch

    def items(self, batch: PackedBatch) -> int:
        """Its answers."""
        return len(batch["cu_seqlens"]) - 1

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return super()._get_train_sampler(_samples(train_dataset or self.train_dataset))  # type: ignore[no-any-return]  # untyped base

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return super()._get_eval_sampler(_samples(eval_dataset))  # type: ignore[no-any-return]  # untyped base

    def log_ratios(self, model: nn.Module, batch: PackedBatch) -> Tensor:
        other = cast("JudgedBatch", batch)["other"]
        return per_sequence(other, self.engine.log_probs(other, model) - self.reference_log_probs(other))[:, None]

    def measure(self, model: nn.Module, batch: PackedBatch) -> Mapping[str, Measure]:
        options, good = self.options, cast("JudgedBatch", batch)["desirable"]
        log_probs = self.engine.log_probs(batch, model)
        scores = per_sequence(batch, log_probs - self.reference_log_probs(batch))
        sums = per_sequence(batch, log_probs)
        losses = preference_math.kto(scores, good, self.divergence, options)
        if options.pref_ftx:
            losses = losses - good * options.pref_ftx * sums / per_sequence(batch, torch.ones_like(log_probs))
        gain, every = scores - self.divergence, torch.ones_like(scores)
        measures = {
            "loss": (losses, every),
            "kl": (self.divergence * every, every),
            "rewards/accuracies": (torch.where(good, gain > 0, gain < 0), every),
        }
        for side, those in (("chosen", good), ("rejected", ~good)):
            measures[f"rewards/{side}"] = options.pref_beta * scores * those, those
            measures[f"logps/{side}"] = sums * those, those
        return measures

    def _means(self, prediction: EvalPrediction) -> dict[str, float]:
        return with_margin(super()._means(prediction))


class AveragesWithMargin(Averages):
    """Means, and from them the margin."""

    def take(self, *args: Any) -> dict[str, float]:
        return with_margin(super().take(*args))


def with_margin(means: dict[str, float]) -> dict[str, float]:
    """Mean reward of the good answers less that of the bad ones, where there were both."""
    if not {"rewards/chosen", "rewards/rejected"} <= means.keys():
        return means
    return {**means, "rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}


def _samples(dataset: Any) -> Any:
    """The data set whose lengths ``group_by_length`` reads."""
    return dataset.samples if isinstance(dataset, Mismatched) else dataset


def as_sequence(feature: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """A prompt and one of the answers beside it as a sequence; the reference is known of its own answer only."""
    prompt = feature["prompt_ids"]
    known = {"reference": feature["reference"]} if answer == "answer" and "reference" in feature else {}
    labels = [IGNORE] * len(prompt) + feature[f"{answer}_labels"]
    return {"input_ids": prompt + feature[f"{answer}_ids"], "labels": labels, **known}
