"""What every optimizer must do: step what trains and nothing else, and go on from a checkpoint bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.errors import FtError
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

LENGTHS = (23, 7, 41, 12, 30, 9)
"""Of the sequences that are learned."""


@dataclass(frozen=True)
class Trained:
    """What a short training came to."""

    training: frozenset[str]
    """Parameters with ``requires_grad`` before the first step."""
    moved: frozenset[str]
    weights: Mapping[str, torch.Tensor]
    losses: list[float]
    folder: Path


class OptimizerContract:
    """Subclass it and set ``plugin``, or ``keys`` alone for what a key selects."""

    plugin: ClassVar[str] = ""
    """A name, ``package.module`` or the path of a file, as for ``--plugin``."""
    keys: ClassVar[Mapping[str, Any]] = {}
    """What a user would write beside it: the plugin's own keys."""
    common: ClassVar[Mapping[str, Any]] = {
        "finetuning_type": "freeze",
        "freeze_trainable_layers": 1,
        "freeze_extra_modules": "embed_tokens,lm_head",
    }
    """What trains: by default a layer, the embeddings and the head, so that there is something to leave alone."""
    decays: ClassVar[bool] = True
    """Whether ``weight_decay`` acts; else the plugin must refuse it in ``ft_check``."""
    clips: ClassVar[bool] = True
    """Whether ``max_grad_norm`` acts; not where a step does not depend on the size of gradients, or is refused."""

    def steps(self, name: str) -> bool:
        """Whether it steps a parameter that trains, within six steps."""
        return bool(name)

    @pytest.fixture(scope="class")
    @classmethod
    def train(cls, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
        """Trains with further keys, perhaps from a checkpoint."""

        def train(checkpoint: Path | None = None, **more: Any) -> Trained:
            keys = {"model_name_or_path": tiny_model_dir, **cls.common, **cls.keys, **more}
            return _train(keys, tmp_path_factory.mktemp("run"), [cls.plugin] if cls.plugin else [], checkpoint)

        return train

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, train: Callable[..., Trained]) -> Trained:
        """Six steps with a checkpoint after three."""
        return train(save_steps=3)

    @pytest.fixture(scope="class")
    @classmethod
    def first(cls, train: Callable[..., Trained]) -> Trained:
        """One step."""
        return train(max_steps=1)

    def test_all_that_trains_moves_and_nothing_else(self, whole: Trained) -> None:
        assert whole.moved == {name for name in whole.training if self.steps(name)} != set()

    def test_the_loss_falls(self, whole: Trained) -> None:
        assert all(map(math.isfinite, whole.losses))
        assert whole.losses[-1] < whole.losses[0]

    def test_resumed_it_is_bit_identical(self, whole: Trained, train: Callable[..., Trained]) -> None:
        resumed = train(whole.folder / "checkpoint-3")
        assert resumed.losses == whole.losses[3:]
        assert _differing(resumed, whole) == []

    def test_its_state_is_no_pickle(self, whole: Trained) -> None:
        names = {path.name for path in (whole.folder / "checkpoint-3").iterdir()}
        assert {"optimizer_state.safetensors", "optimizer_state.json"} <= names
        assert not [name for name in names if name.endswith((".pt", ".pth", ".bin", ".pkl"))]

    def test_the_schedule_acts(self, train: Callable[..., Trained]) -> None:
        """The first step of a warm-up has a learning rate of zero."""
        assert train(max_steps=1, warmup_steps=1).moved == frozenset()

    def test_weight_decay_acts_or_is_refused(self, first: Trained, train: Callable[..., Trained]) -> None:
        if self.decays:
            assert _differing(train(max_steps=1, weight_decay=0.5), first) != []
        else:
            with pytest.raises(FtError, match="weight_decay"):
                train(max_steps=1, weight_decay=0.5)

    def test_max_grad_norm_acts(self, first: Trained, train: Callable[..., Trained]) -> None:
        if self.clips:
            assert _differing(train(max_steps=1, max_grad_norm=1e-9), first) != []


def _differing(one: Trained, other: Trained) -> list[str]:
    import torch

    return [name for name, weight in one.weights.items() if not torch.equal(weight, other.weights[name])]


def _train(keys: Mapping[str, Any], folder: Path, plugins: list[str], checkpoint: Path | None) -> Trained:
    """A run from the model on, in this process, with made-up tokens."""
    import torch
    from datasets import Dataset

    from ft import lifecycle

    torch.set_num_threads(1)  # more would wait for each other longer than they compute
    usual = {"max_steps": 6, "logging_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 3}
    run, manager = changed_model({**usual, **keys}, folder, plugins)
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in LENGTHS]
    run.train_dataset = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in sequences])
    model: Any = run.model
    before = _copied(model)
    training = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    lifecycle.build_trainer(run, manager)
    trainer: Any = run.trainer
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    weights = _copied(model)
    moved = frozenset(name for name, weight in weights.items() if not torch.equal(weight, before[name]))
    begun = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row and row["step"] > begun]
    return Trained(training, moved, weights, losses, run.output_dir)


def _copied(model: Any) -> dict[str, torch.Tensor]:
    """Its parameters, on the CPU: the trainer may have moved the model to a GPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}
