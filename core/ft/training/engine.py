"""What every stage needs of a model: for the labels of a batch, their loss or log-probabilities, fast and exact.

A model that can takes the packed step (one flat row, attention a sequence at a time, head at labels
only); any other the plain padded forward of transformers. The first batch decides by comparing the two.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ft.data import IGNORE
from ft.errors import ConfigError, TrainingError
from ft.training import attention
from ft.training.attention import use_attention_kernel
from ft.training.capability import base_dtype, obstacles, positions, unwrap
from ft.training.head import label_head, log_probs_and_entropy, picked, replaced_forward
from ft.training.packing import PackedBatch, pad
from ft.training.selfcheck import CHECK_TOKENS, TOLERANCE, sample
from ft.training.values import instead_of_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Engine:
    """The loss and log-probabilities of packed batches.

    Args:
        model: a causal language model of transformers, perhaps inside PEFT. Its attention is switched to ``ft_packed``.
        attention: ``packed`` demands the packed step, ``padded`` forbids it, ``auto`` takes it where it is exact.
        decide: told each decision with its reason.

    Attributes:
        base: the transformers model itself.
        packed: which step runs.
        reason: why it is the padded one; empty when it is not.

    Raises:
        ConfigError: ``packed`` was demanded of a model that cannot take it.
    """

    def __init__(
        self,
        model: nn.Module,
        attention: Literal["auto", "packed", "padded"] = "auto",
        decide: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.base: Any = unwrap(model)
        self.attention = attention
        self.demanded = attention == "packed"
        self.decide = decide
        self.checked = False
        self._others: dict[nn.Module, Engine] = {}
        self.reason = "attention: padded" if attention == "padded" else "; ".join(obstacles(model))
        if self.demanded and self.reason:
            raise ConfigError(
                "this model cannot be trained packed",
                where="attention: packed",
                why=self.reason,
                remedy="set attention: auto or padded",
            )
        self.packed = not self.reason
        self._sums_losses = "kwargs" in inspect.signature(self.base.forward).parameters
        if self.packed:
            use_attention_kernel(model)
        else:
            self.checked = True
            decide(f"batches are padded: {self.reason}")

    def cross_entropy(self, batch: PackedBatch, normaliser: Tensor | float, model: nn.Module | None = None) -> Tensor:
        """Σ weight · -log p(label) / normaliser, a scalar.

        Args:
            batch: as :func:`ft.training.packing.pack` makes it.
            normaliser: normally the number of labels of the whole optimizer step.
            model: the wrapped model to call (DDP, FSDP) when it is not the one given at first.
        """
        model = model or self.model
        weights = batch.get("weights")
        if self.packed:
            scale = torch.ones_like(batch["targets"], dtype=torch.float32) if weights is None else weights
            return self._packed(model, batch, scale / normaliser).reshape(())
        if weights is None and model.training and self._sums_losses:
            return _own_loss(model, batch, normaliser)
        values = self.log_probs(batch, model)
        return -(values if weights is None else values * weights).sum() / normaliser

    def log_probs(self, batch: PackedBatch, model: nn.Module | None = None) -> Tensor:
        """The log-probability of each label of the batch in order: (L,), fp32.

        Any other model, such as a reference, may be given too: it has an engine of its own, made at first use.
        """
        model = model or self.model
        if _bare(model) is not self.base:
            return self._other(model, batch).log_probs(batch)
        return self._packed(model, batch).reshape(-1) if self.packed else _padded_log_probs(model, batch)

    def scores(self, batch: PackedBatch, head: nn.Module, model: nn.Module | None = None) -> Tensor:
        """``head`` of the hidden state of each sequence's last token: (S,), fp32.

        Args:
            batch: its labels do not matter.
            head: normally the model's own :class:`ft.training.ValueHead`: hidden states (…, h) → (…).
            model: as for :meth:`cross_entropy`.
        """
        model = model or self.model
        if self.packed:
            last = (batch["cu_seqlens"][1:] - 1).long()
            with replaced_forward(self.base.get_output_embeddings(), lambda hidden: head(hidden)[..., None]):
                return self._forward(model, batch, last).reshape(-1)
        padded = pad(batch)
        ends = padded["attention_mask"].sum(1) - 1

        def compute(hidden: Tensor, _: Tensor) -> Tensor:
            values: Tensor = head(hidden[torch.arange(len(ends), device=ends.device), ends])
            return values

        return self._padded(model, padded, compute, with_logits=False)

    def values(
        self, batch: PackedBatch, head: nn.Module, model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each label, in one forward: its log-probability, the value and the entropy before it; each (L,), fp32.

        Value and entropy (in nats, without gradient) are those of the state that predicts the label: what is expected
        before it is known. Arguments as for :meth:`scores`.
        """
        model = model or self.model
        if self.packed:
            language_head, targets = self.base.get_output_embeddings(), batch["targets"]
            own = language_head.forward

            def three(hidden: Tensor) -> Tensor:
                rows = hidden[0]
                return torch.stack([*log_probs_and_entropy(language_head, own, rows, targets), head(rows)], -1)[None]

            with replaced_forward(language_head, three):
                found = self._forward(model, batch, batch["rows"])[0]
        else:
            padded = pad(batch)
            labels = padded["labels"][:, 1:]
            supervised = labels != IGNORE

            def compute(hidden: Tensor, logits: Tensor) -> Tensor:
                rows = picked(logits[:, :-1][supervised], labels[supervised], entropy=True)
                return torch.stack([*rows, head(hidden[:, :-1][supervised])], -1)

            found = self._padded(model, padded, compute, with_logits=True)
        log_probs, entropy, values = found.unbind(-1)
        return log_probs, values, entropy.detach()

    def check(self, batch: PackedBatch, model: nn.Module | None = None) -> None:
        """On the first batch, compare the two steps on a small part of it and keep to the padded one if they differ.

        Raises:
            TrainingError: they differ and ``packed`` was demanded.
        """
        if self.checked:
            return
        self.checked = True
        longest = positions(self.base) or CHECK_TOKENS
        difference, tolerance = self._difference(sample(batch, min(CHECK_TOKENS, longest // 2)), model or self.model)
        if difference <= tolerance:
            self.decide(f"batches are packed: log-probabilities equal the padded forward's to {difference:.1e}")
            return
        self.reason = f"packed log-probabilities differ by {difference:.1e} from the padded forward's"
        if self.demanded:
            raise TrainingError(
                "the packed step is not exact for this model", why=self.reason, remedy="attention: auto"
            )
        self.packed = False
        self.decide(f"batches are padded: {self.reason}")

    def _packed(self, model: nn.Module, batch: PackedBatch, scale: Tensor | None = None) -> Tensor:
        with label_head(self.base.get_output_embeddings(), batch["targets"], scale):
            return self._forward(model, batch, batch["rows"])

    def _forward(self, model: nn.Module, batch: PackedBatch, rows: Tensor) -> Tensor:
        """What the head returns for some rows of the packed batch."""
        logits: Tensor = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            logits_to_keep=rows,
            use_cache=False,
            **attention.boundaries(batch),
        ).logits
        return logits

    def _padded(
        self, model: nn.Module, padded: dict[str, Tensor], compute: Callable[[Tensor, Tensor], Tensor], **kwargs: Any
    ) -> Tensor:
        """``compute(hidden, logits)`` of the padded forward, see :func:`instead_of_logits`."""
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        with instead_of_logits(self.base, compute, **kwargs):
            logits: Tensor = model(**inputs, use_cache=False).logits
        return logits

    def _other(self, model: nn.Module, batch: PackedBatch) -> Engine:
        """The engine of another model, which proves itself on the first batch it gets."""
        if model not in self._others:
            device = batch["input_ids"].device
            if next(model.parameters()).device != device:
                model.to(device)  # a trainer moves only the model that it trains
            name = type(_bare(model)).__name__
            self._others[model] = Engine(model, self.attention, lambda line: self.decide(f"another {name}: {line}"))
        self._others[model].check(batch)
        return self._others[model]

    def forget(self, model: nn.Module) -> None:
        """Keep nothing of another model: its memory is free when nobody else holds it."""
        self._others.pop(model, None)

    def _difference(self, batch: PackedBatch, model: nn.Module) -> tuple[float, float]:
        """Mean absolute difference of the two steps, the largest over all processes, and the tolerance.

        The last sequence, which alone sees a shared prompt, counts by itself too: the others would dilute it.
        """
        devices = [batch["input_ids"].device] if batch["input_ids"].is_cuda else []
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices):
            try:
                packed = self._packed(model, batch).reshape(-1)
            except NotImplementedError:
                return float("inf"), 0.0
            differences = (packed - _padded_log_probs(model, batch)).abs()
        branch = differences[batch["sequence_of"] == batch["sequence_of"][-1]]
        difference = torch.maximum(differences.mean(), branch.mean())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
        kind = batch["input_ids"].device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base_dtype(self.model)
        return difference.nan_to_num(nan=float("inf")).item(), TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards exactly the modules that trained train again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _bare(model: nn.Module) -> nn.Module:
    """The transformers model inside torch.compile, DDP and PEFT."""
    for wrapper in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return unwrap(model)


def _own_loss(model: nn.Module, batch: PackedBatch, normaliser: Tensor | float) -> Tensor:
    """The loss that transformers computes, with whatever the model adds to it (experts' balance)."""
    loss: Tensor = model(**pad(batch), num_items_in_batch=normaliser, use_cache=False).loss
    return loss


def _padded_log_probs(model: nn.Module, batch: PackedBatch) -> Tensor:
    """The log-probability of each label, (L,), from full logits (S, N, V)."""
    padded = pad(batch)
    labels = padded.pop("labels")[:, 1:]
    logits = model(**padded, use_cache=False).logits[:, :-1]
    supervised = labels != IGNORE
    picked: Tensor = functional.log_softmax(logits[supervised].float(), dim=-1)
    return picked.gather(1, labels[supervised][:, None])[:, 0]
