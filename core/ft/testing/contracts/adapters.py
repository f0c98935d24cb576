"""What every adapter must do: train what it says and nothing else, and save what plain peft or transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.files import ADAPTER_CONFIG
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from ft_hookspecs import Change

CLOSE = 1e-5
"""Largest difference of logits that are the same, in fp32."""


@dataclass(frozen=True)
class Learned:
    """A model after surgery and two optimizer steps, and what is known of it."""

    model: Any
    change: Change
    training: frozenset[str]
    """Parameters with ``requires_grad`` before the steps."""
    moved: frozenset[str]
    """Parameters with other values after them."""
    logits: torch.Tensor
    folder: Path
    """Where ``ft_save_model`` wrote."""


class AdapterContract:
    """Subclass it and set ``plugin``; ``keys`` are what a user would write beside ``finetuning_type``."""

    plugin: ClassVar[str]
    """A name, ``package.module`` or the path of a file, as for ``finetuning_type``."""
    keys: ClassVar[Mapping[str, Any]] = {}
    merges: ClassVar[bool] = True
    """Whether the adapter is one of peft's that can be merged into the model."""

    @pytest.fixture(scope="class")
    @classmethod
    def learned(cls, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
        """What all tests of a class look at, made once."""
        keys = {"model_name_or_path": tiny_model_dir, "finetuning_type": cls.plugin, **cls.keys}
        return _learned(keys, tmp_path_factory.mktemp("adapter"))

    def test_it_says_what_it_did(self, learned: Learned) -> None:
        assert learned.change.summary
        assert learned.change.modules, "Change.modules names the modules that train"

    def test_what_trains_is_what_it_claims(self, learned: Learned) -> None:
        claimed = tuple(f"{module}." for module in learned.change.modules)
        stray = {name for name in learned.training if not name.removeprefix("base_model.model.").startswith(claimed)}
        assert not stray, "these train and are in no module of Change.modules"

    def test_all_that_trains_moves_and_nothing_else(self, learned: Learned) -> None:
        assert learned.moved == learned.training

    def test_what_it_saved_loads_without_ft(self, learned: Learned) -> None:
        close(logits(loaded(learned.folder)), learned.logits)

    def test_it_saves_safetensors_alone(self, learned: Learned) -> None:
        assert not [path for path in learned.folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]

    def test_merged_it_is_the_same_model(self, learned: Learned, tmp_path: Path) -> None:
        if self.merges:
            merged = loaded(learned.folder).merge_and_unload(safe_merge=True)
            close(logits(merged), learned.logits)
            merged.save_pretrained(tmp_path)
            close(logits(loaded(tmp_path)), learned.logits)


def _learned(keys: Mapping[str, Any], folder: Path) -> Learned:
    import torch

    from ft.modeling import save_tokenizer

    run, manager = changed_model(keys, folder)
    model: Any = run.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    training = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    learn(model)
    moved = frozenset(name for name, each in model.named_parameters() if not torch.equal(each, before[name]))
    saved = folder / "saved"
    saved.mkdir()
    assert manager.hook.ft_save_model(run=run, model=model, folder=saved), "ft_save_model must return True"
    assert run.tokenizer is not None
    save_tokenizer(run.tokenizer, None, saved)
    _, change = next(done for done in run.changes if done[0].kind == "adapters")
    return Learned(model, change, training, moved, logits(model), saved)


def learn(model: Any, steps: int = 2) -> None:
    """Optimizer steps on fixed tokens, so that what is saved is not what was there at the start."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for seed in range(steps):
        ids = torch.randint(0, vocabulary, (2, 48), generator=torch.Generator().manual_seed(seed))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def logits(model: Any) -> torch.Tensor:
    """Of fixed tokens, in evaluation mode."""
    import torch

    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=torch.arange(5, 69).view(2, 32)).logits
    return result


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that these are the same logits, and that there is something to compare."""
    import torch

    assert ours.shape == expected.shape
    assert float(ours.std()) > 0
    torch.testing.assert_close(ours, expected, rtol=0, atol=CLOSE)


def loaded(folder: Path) -> Any:
    """What plain peft or transformers makes of a folder."""
    if (folder / ADAPTER_CONFIG).is_file():
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype="float32")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
