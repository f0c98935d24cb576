"""A model with a PiSSA adapter, which saves and resumes as an ordinary LoRA of the weights as they were."""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModelForCausalLM
from peft.tuners.lora import LoraConfig, LoraLayer

from ft.modeling import save_tokenizer
from ft_plugins._saved_adapters import RESIDUAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Run

Factors = dict["nn.Linear", "Tensor"]
NAME = "default"


class PissaModel(PeftModelForCausalLM):  # type: ignore[misc]  # peft ships no types
    """Trains the principal part of the weights (Meng et al. 2024, arXiv:2404.02948).

    ``W = R + s·B₀A₀`` by singular values; the base becomes R, and ``R + s·BA`` trains. That is ``W + s·(BA − B₀A₀)``:
    an ordinary LoRA of twice the rank, with ``[A; A₀]`` and ``[B, −B₀]``, says the same of W. This is what is saved,
    in checkpoints too: it loads on the original model, and it holds all that a resumed run needs.
    """

    def __init__(self, model: PreTrainedModel, config: LoraConfig) -> None:
        super().__init__(model, config)
        config.init_lora_weights = True  # else whoever loads what is saved would take the principal part out again
        self._start: Factors = {factor: factor.weight.detach().clone() for pair in self._pairs() for factor in pair[1:]}

    def _pairs(self) -> Iterator[tuple[LoraLayer, nn.Linear, nn.Linear]]:
        """Each layer with its A of shape (rank, in) and B of shape (out, rank)."""
        for layer in self.modules():
            if isinstance(layer, LoraLayer):
                yield layer, layer.lora_A[NAME], layer.lora_B[NAME]

    @contextmanager
    def _as_lora(self) -> Iterator[None]:
        """The ordinary LoRA in place of the factors that train."""
        config, kept = self.peft_config[NAME], {factor: factor.weight.data for factor in self._start}
        try:
            self.peft_config[NAME] = _doubled(config)
            for _, a, b in self._pairs():
                a.weight.data = torch.cat([kept[a], self._start[a].to(kept[a].device)])
                b.weight.data = torch.cat([kept[b], -self._start[b].to(kept[b].device)], 1)
            yield
        finally:
            self.peft_config[NAME] = config
            for factor, weight in kept.items():
                factor.weight.data = weight

    def save_pretrained(self, save_directory: str, *args: Any, **kwargs: Any) -> None:
        with self._as_lora():
            super().save_pretrained(save_directory, *args, **kwargs)

    def save_with_base(self, folder: Path, run: Run) -> None:
        """The adapter as it trains, and beside it the base that it belongs on, as a whole model."""
        base, config = folder / RESIDUAL, self.peft_config[NAME]
        whole = cast("PreTrainedModel", self.get_base_model())
        whole.save_pretrained(base, state_dict=_plain(whole.state_dict()))
        assert run.tokenizer is not None
        save_tokenizer(run.tokenizer, run.template, base)
        config.base_model_name_or_path, config.revision = str(base.resolve()), None
        super().save_pretrained(str(folder), save_embedding_layers=False)

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Take up what :meth:`save_pretrained` wrote."""
        rank = self.peft_config[NAME].r
        with self._as_lora():
            result = super().load_adapter(*args, **kwargs)
            saved = {factor: factor.weight.data for factor in self._start}
        with torch.no_grad():
            for layer, a, b in self._pairs():
                self._restore(layer, {a: saved[a][rank:], b: -saved[b][:, rank:]})
                a.weight.copy_(saved[a][:rank])
                b.weight.copy_(saved[b][:, :rank])
        return result

    def _restore(self, layer: LoraLayer, start: Factors) -> None:
        """Another machine finds slightly other singular vectors: the base must lack what the saved factors began as."""
        a, b = start
        if all(torch.equal(self._start[factor].to(value.device), value) for factor, value in start.items()):
            return
        base = layer.get_base_layer()
        change = self._start[b].to(start[b].device) @ self._start[a].to(start[a].device) - start[b] @ start[a]
        change = change.T if layer.fan_in_fan_out else change
        base.weight.copy_((base.weight.float() + layer.scaling[NAME] * change.float()).to(base.weight.dtype))
        self._start.update({factor: value.clone() for factor, value in start.items()})


def _doubled(config: LoraConfig) -> LoraConfig:
    """The configuration of twice the rank with the same scale."""
    doubled = copy(config)
    doubled.r = 2 * config.r
    doubled.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    return doubled


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's own weights, under the names that they have without an adapter."""
    own = {name: value for name, value in state.items() if ".lora_" not in name and ".modules_to_save." not in name}
    return {name.replace(".base_layer.", ".").replace(".original_module.", "."): value for name, value in own.items()}
