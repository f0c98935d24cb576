"""What every accelerator must do: change what it says it changes, keep the mathematics, and leave plain files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.testing.runs import Outcome, Runs
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from ft_hookspecs import Change

LENGTHS = ((33, 7, 20), (5, 40), (17, 18, 19, 3))
"""Sequences of three batches: no two are of one shape."""


@dataclass(frozen=True)
class Steps:
    """The loss of each batch, the gradient of each parameter that trains, and what the accelerator said."""

    losses: list[float]
    gradients: dict[str, torch.Tensor]
    change: Change | None


class AcceleratorContract:
    """Subclass it and set ``plugin``: the same run with and without it must compute the same."""

    plugin: ClassVar[str]
    """A name, ``package.module`` or the path of a file, as for ``--plugin``."""
    keys: ClassVar[Mapping[str, Any]] = {}
    """What a user would write beside it: the plugin's own keys."""
    common: ClassVar[Mapping[str, Any]] = {}
    """Keys of both runs."""
    device: ClassVar[str] = "cpu"
    tolerance: ClassVar[float] = 1e-5
    """Largest relative difference of a loss, and of a gradient in norm."""
    claims: ClassVar[bool] = True
    """Whether it replaces modules; one that only sets something claims none."""

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tiny_model_dir: Path) -> dict[str, Any]:
        """The keys of both runs."""
        usual = {"model_name_or_path": tiny_model_dir, "use_cpu": cls.device == "cpu", "dtype": "float32"}
        return {**usual, **cls.common}

    @pytest.fixture(scope="class")
    @classmethod
    def both(cls, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Steps, Steps]:
        """The same batches without and with the plugin."""
        plain, changed = (tmp_path_factory.mktemp(name) for name in ("plain", "changed"))
        return _steps(settings, plain, cls.device), _steps({**settings, **cls.keys}, changed, cls.device, cls.plugin)

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
        """The same short training without and with the plugin."""
        folder = tmp_path_factory.mktemp("runs")
        return _train(settings, folder / "plain"), _train({**settings, **cls.keys}, folder / "changed", cls.plugin)

    def test_it_says_what_it_changed(self, both: tuple[Steps, Steps]) -> None:
        change = both[1].change
        assert change is not None, "the plugin did not act"
        assert change.summary
        names = {name.removeprefix("base_model.model.") for name, _ in change.model.named_modules()}
        assert change.modules <= names, "Change.modules names modules that the model does not have"
        assert bool(change.modules) is self.claims

    def test_losses_and_gradients_are_the_same_to_rounding(self, both: tuple[Steps, Steps]) -> None:
        plain, changed = both
        assert changed.losses == pytest.approx(plain.losses, rel=self.tolerance)
        assert changed.gradients.keys() == plain.gradients.keys() != set()
        for name, gradient in plain.gradients.items():
            difference = float((changed.gradients[name] - gradient).norm())
            assert difference <= 10 * self.tolerance * float(gradient.norm()), name

    def test_a_run_trains_the_same_and_leaves_the_same_files(self, runs: tuple[Outcome, Outcome]) -> None:
        plain, changed = runs
        assert changed.exits == (0,), changed.output
        assert changed.series("loss") == pytest.approx(plain.series("loss"), rel=100 * self.tolerance)
        ours, theirs = changed.tensors(), plain.tensors()
        assert ours.keys() == theirs.keys() != set()
        assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
        written = [{path.name for path in (each.folder / "checkpoint-3").iterdir()} for each in runs]
        assert written[0] == written[1]


def _steps(keys: Mapping[str, Any], folder: Path, device: str, *plugins: str) -> Steps:
    """Loss and gradients of three batches, the update of an adapter away from zero."""
    import torch

    from ft.training import Engine, pack

    run, _ = changed_model(keys, folder, plugins)
    model: Any = run.model
    model.to(device).train()
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    engine = Engine(model)
    losses = []
    for lengths in LENGTHS:
        batch = _to(pack([_sequence(length, draw) for length in lengths]), device)
        engine.check(batch)
        loss = engine.cross_entropy(batch, len(batch["targets"]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's gap
        losses.append(loss.item())
    gradients = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
    change = next((change for info, change in run.changes if info.name in map(_name, plugins)), None)
    return Steps(losses, gradients, change)


def _name(plugin: str) -> str:
    """What a plugin is called in a run: the last word of a dotted module or path."""
    return plugin.removesuffix(".py").rpartition("/")[2].rpartition(".")[2].rpartition(":")[2]


def _sequence(length: int, draw: torch.Generator) -> dict[str, list[int]]:
    import torch

    ids = torch.randint(4, 384, (length,), generator=draw).tolist()
    return {"input_ids": ids, "labels": ids}


def _to(batch: Any, device: str) -> Any:
    return {name: each.to(device) if hasattr(each, "to") else each for name, each in batch.items()}


def _train(keys: Mapping[str, Any], folder: Path, *plugins: str) -> Outcome:
    """Three optimizer steps with a checkpoint."""
    data = folder.with_suffix(".json")
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(1, 9)]
    data.write_text(json.dumps(rows), encoding="utf-8")
    usual = {"dataset": data, "max_steps": 3, "save_steps": 3, "logging_steps": 1, "learning_rate": 1e-3}
    return Runs()({**usual, **keys, "output_dir": folder, "cache_dir": folder.parent / "cache"}, plugins=plugins)
