"""What every quantizer must do: take less room, stay near, and let the exact gradient through."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.testing.runs import Runs
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from ft_hookspecs import Change

LORA = {"finetuning_type": "lora", "lora_rank": 4}
GRADIENT = 1e-4
"""Largest difference of a gradient, as a share of its norm, from that through the dequantised weights, in fp32."""


@dataclass(frozen=True)
class Quantised:
    """A model with an adapter on quantised weights, one with the same weights in fp32, and one with the original."""

    model: Any
    change: Change
    twin: Any
    original: Any


class QuantizerContract:
    """Subclass it and set ``keys``, what a user would write, and the bounds."""

    keys: ClassVar[Mapping[str, Any]]
    name: ClassVar[str]
    """What ``ft.quantization.quantization_of`` says."""
    share: ClassVar[float]
    """Bytes of the quantised layers, at most this share of fp32's."""
    logits_error: ClassVar[float]
    """Mean difference of the logits, at most this share of their standard deviation."""

    @pytest.fixture(scope="class")
    @classmethod
    def quantised(cls, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
        """What all tests of a class look at, made once."""
        return _quantised(
            {"model_name_or_path": tiny_model_dir, **LORA}, cls.keys, tmp_path_factory.mktemp("quantised")
        )

    def test_it_says_what_it_did(self, quantised: Quantised) -> None:
        from ft.quantization import quantization_of, stored_bytes

        details, base = quantised.change.details, quantised.model.get_base_model()
        assert quantization_of(quantised.model) == self.name == details["quantization"]
        assert details["bytes_before"] == stored_bytes(quantised.original.get_base_model()) - _added(quantised.original)
        assert details["bytes_after"] == stored_bytes(base) - _added(quantised.model)
        assert details["kept"] == ["model.embed_tokens", "lm_head"]
        assert all(each in quantised.change.summary for each in (self.name, *details["kept"]))

    def test_its_weights_are_smaller(self, quantised: Quantised) -> None:
        from ft.quantization import stored_bytes

        after, before = (
            sum(stored_bytes(_layer(model, name)) for name in quantised.change.modules)
            for model in (quantised.model, quantised.original)
        )
        assert quantised.change.modules
        assert after <= self.share * before, f"{after / before:.3f}"

    def test_its_logits_are_near(self, quantised: Quantised) -> None:
        found, wanted = _evaluated(quantised.model), _evaluated(quantised.original)
        error = ((found - wanted).abs().mean() / wanted.std()).item()
        assert 0 < error <= self.logits_error, f"{error:.4f}"

    def test_its_gradients_are_exact_and_stay_so_after_an_evaluation(self, quantised: Quantised) -> None:
        expected = _gradients(quantised.twin)
        for _ in range(2):
            _equal(_gradients(quantised.model), expected)
            _evaluated(quantised.model)

    def test_its_evaluation_is_that_of_its_dequantised_weights(self, quantised: Quantised) -> None:
        import torch

        torch.testing.assert_close(_evaluated(quantised.model), _evaluated(quantised.twin), rtol=1e-3, atol=1e-3)

    def test_what_is_frozen_stays(self, quantised: Quantised) -> None:
        assert all("lora_" in name for name, each in quantised.model.named_parameters() if each.requires_grad)

    @pytest.mark.slow
    def test_killed_and_resumed_it_is_bit_identical(self, tiny_model_dir: Path, tmp_path: Path) -> None:
        import json

        import torch

        data = tmp_path / "data.json"
        data.write_text(json.dumps([{"instruction": f"Count to {n}.", "output": "one two three"} for n in range(8)]))
        keys = {"model_name_or_path": tiny_model_dir, "dataset": data, "use_cpu": True, **LORA, **self.keys}
        run = Runs({**keys, "max_steps": 6, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2})
        whole = run({"output_dir": tmp_path / "whole", "val_size": 2, "eval_strategy": "steps", "eval_steps": 2})
        assert whole.exits == (0,), whole.output
        again = {"output_dir": tmp_path / "killed", "val_size": 2, "eval_strategy": "steps", "eval_steps": 2}
        assert run(again, kill_after=5).exits == (-signal.SIGKILL,)
        resumed = run({**again, "resume_from_checkpoint": True})
        assert resumed.series("loss") == whole.series("loss"), resumed.output
        tensors, others = whole.tensors(), resumed.tensors()
        assert tensors.keys() == others.keys() != set()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def _quantised(usual: Mapping[str, Any], keys: Mapping[str, Any], folder: Path) -> Quantised:
    """The three models, all with the same adapter, which already changes something."""
    import torch

    from ft.quantization import dequantized

    run, twin, original = (changed_model({**usual, **more}, folder)[0] for more in (keys, {}, {}))
    change, models = run.changes[0][1], Quantised(run.model, run.changes[0][1], twin.model, original.model)
    _make_felt(models.model)
    adapter = {name: each for name, each in models.model.state_dict().items() if "lora_" in name}
    for other in (models.twin, models.original):
        other.load_state_dict(adapter, strict=False)
    for name in change.modules:
        with torch.no_grad():
            _layer(models.twin, name).weight.copy_(dequantized(_layer(models.model, name)))
    return models


def _make_felt(model: Any) -> None:
    """An adapter begins as zero, and then half of its gradients are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)


def _layer(model: Any, name: str) -> Any:
    layer = model.get_base_model().get_submodule(name)
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _added(model: Any) -> int:
    """Bytes of the adapter."""
    added = {
        each.data_ptr(): each.numel() * each.element_size()
        for name, each in model.named_parameters()
        if "lora_" in name
    }
    return sum(added.values())


def _batch() -> torch.Tensor:
    import torch

    return torch.randint(4, 384, (2, 24), generator=torch.Generator().manual_seed(0))


def _evaluated(model: Any) -> torch.Tensor:
    """Its logits in evaluation."""
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=_batch()).logits
    return logits


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    """Of all that trains, through the packed step, in training mode."""
    from ft.training import Engine, pack

    model.train()
    model.zero_grad()
    batch = pack([{"input_ids": row, "labels": row} for row in _batch()])
    loss: Any = Engine(model, "packed").cross_entropy(batch, len(batch["targets"]))
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


def _equal(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    errors = {name: ((found[name] - each).norm() / each.norm()).item() for name, each in wanted.items()}
    assert found.keys() == wanted.keys() != set()
    assert max(errors.values()) <= GRADIENT, max(errors.items(), key=lambda item: item[1])
