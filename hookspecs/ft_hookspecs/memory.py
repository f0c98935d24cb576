"""What is known of a run's memory before a weight is read: the sizes of its model, and what is done with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Checkpointing = Literal["none", "selective", "full", "offloaded"]
"""Which activations are made again in the backward pass: none; those of every other layer; those of every layer, of
which the inputs are kept; the same, with the inputs in the host's memory."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder. ``tensors`` are the shapes of its weights by name, each stored one once.

    Where the files are quantised, shapes are those of the unpacked weights, and ``matrix_bytes`` is what each number of
    :attr:`matrices` takes in the files.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)
    matrix_bytes: float | None = None

    @cached_property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(map(prod, self.tensors.values()))

    @cached_property
    def matrices(self) -> Mapping[str, tuple[int, int]]:
        """The linear maps inside the layers, by module name: outputs and inputs."""
        return {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in self.tensors.items()
            if ".layers." in name and name.endswith(".weight") and len(shape) == 2
        }

    @property
    def tied(self) -> bool:
        """Whether the head is the embeddings' matrix."""
        return not any(name.endswith("lm_head.weight") for name in self.tensors)


@dataclass(frozen=True)
class Estimate:
    """What the memory of a run depends on. A plugin corrects it in ``ft_estimate``, with ``dataclasses.replace``.

    Bytes are those of one number, and may be fractions: 4 bits are 0.5.

    Attributes:
        shape: of the model that trains.
        tokens: of the longest micro-batch.
        longest: tokens of its longest sequence.
        measured: whether batches are known to become so long; else this is the most that ``cutoff_len`` allows.
        packed: whether its sequences stand in one row, with logits at labels alone, or are padded.
        accumulates: whether gradients are kept from one micro-batch to the next.
        weight_bytes: of each weight.
        matrix_bytes: of each weight of the linear maps inside the layers, where they are quantised.
        compute_bytes: of activations.
        stream_bytes: of the hidden states between layers, which autocast leaves in the weights' format.
        attention_bytes: of queries, keys and values as attention keeps them; ``None``: as ``compute_bytes``.
        trained: parameters that train; ``None`` when no plugin says.
        added: those of them that are no part of the model's files.
        copied: those of the added that are copies of whole modules, and no part of an adapter's factors.
        trained_bytes: of each parameter that trains, and of its gradient.
        state_bytes: of the optimizer's state for each; ``None`` when no plugin says.
        adapted: the linear maps whose inputs an adapter keeps, each in ``trained_bytes``.
        mask_bytes: of a mask of dropout before the adapters, each of which then keeps a copy of its input; 0 without.
        trains_matrices: whether the linear maps and norms of the layers themselves train.
        trains_head: whether the head's matrix trains, and so the embeddings where it is the same.
        active: layers that something is learned in or below; ``None``: all of them.
        checkpointing: which activations are made again.
        rollouts: bytes of keys and values kept while answers are generated, when no activations are there.
        held: what else lies in memory throughout, by name, in bytes.
        notes: what is not known, and what was decided, each a line.
    """

    shape: ModelShape
    tokens: int
    longest: int
    measured: bool = False
    packed: bool = True
    accumulates: bool = False
    weight_bytes: float = 4
    matrix_bytes: float | None = None
    compute_bytes: int = 4
    stream_bytes: int = 4
    attention_bytes: int | None = None
    trained: int | None = None
    added: int = 0
    copied: int = 0
    trained_bytes: int = 4
    state_bytes: float | None = None
    adapted: tuple[str, ...] = ()
    mask_bytes: int = 0
    trains_matrices: bool = False
    trains_head: bool = False
    active: int | None = None
    checkpointing: Checkpointing = "none"
    rollouts: float = 0
    held: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
