"""How much memory a training step takes, term by term.

Activations are counted as PyTorch's autograd keeps them for a decoder of transformers (norm, attention, norm, gated
MLP), which ``tests/core/estimate`` checks to the byte. Letters: h hidden size, a and k all heads' queries and keys, f
the MLP's size, c bytes of a computed number, s of a hidden state between layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import Estimate

CHUNK_ELEMENTS: Final = 2**25
"""Logits of one chunk of the packed head: 128 MiB in fp32. Fewer make the products slower, more only take memory."""
LEAST_ROWS: Final = 32
"""Of one chunk, however large the vocabulary is."""
BACK: Final = ("o_proj", "out_proj", "dense", "down_proj", "fc2", "c_proj")
"""Linear maps back into the hidden state. The input of each is its own; the others of a module share one."""
FP32: Final = 4


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that takes memory, and why it is as large as it is."""

    name: str
    bytes: float
    why: str


def terms(estimate: Estimate) -> list[Term]:
    """Everything that takes memory, in the order in which it comes to be."""
    e = estimate
    trained = e.trained or 0
    how = {"none": "every layer's kept", "selective": "every other layer's kept", "full": "only layers' inputs kept"}
    found = [
        Term("weights", weights(e), f"{e.shape.parameters:,} parameters"),
        Term("adapter", e.added * e.trained_bytes, f"{e.added:,} parameters"),
        Term("optimizer states", trained * (e.state_bytes or 0), f"{e.state_bytes or 0:.3g} bytes a parameter"),
        *(Term(name, size, "held throughout") for name, size in e.held.items()),
        Term("gradients", trained * e.trained_bytes, f"{trained:,} parameters"),
        Term("activations", activations(e), f"{e.tokens:,} tokens, {how.get(e.checkpointing, 'inputs on the host')}"),
        Term("logits", logits(e), f"{e.shape.vocabulary:,} words, {'a chunk' if e.packed else 'all'} of the tokens"),
        Term("rollouts", e.rollouts, "keys and values while answers are generated, before the activations"),
    ]
    return [term for term in found if term.bytes]


def peak(estimate: Estimate) -> float:
    """Bytes at the largest moment: activations are complete, or gradients are.

    Gradients of the weights come to be while activations go, so both count together only where an earlier micro-batch
    left its gradients behind.
    """
    size = {term.name: term.bytes for term in terms(estimate)}
    names = ("gradients", "activations", "logits", "rollouts")
    gradients, kept, head, rollouts = (size.pop(name, 0) for name in names)
    moving = kept + head
    together = gradients + moving if estimate.accumulates else max(moving, gradients + last_layer(estimate))
    return sum(size.values()) + max(together, rollouts)


def weights(e: Estimate) -> float:
    """The model as loaded: matrices of the layers perhaps quantised, norms, embeddings and head not.

    Parameters of the model that train may stand in a wider format than the frozen ones; autocast keeps a cast copy of
    every matrix that trains until the backward has used it.
    """
    matrices = sum(out * into for out, into in e.shape.matrices.values())
    own = (e.trained or 0) - e.added
    base = (e.shape.parameters - matrices) * e.weight_bytes + matrices * (e.matrix_bytes or e.weight_bytes)
    cast = matrices * e.compute_bytes if e.trains_matrices and e.compute_bytes < e.stream_bytes else 0
    return base + own * max(e.trained_bytes - e.weight_bytes, 0) + cast


def activations(e: Estimate) -> float:
    """What autograd keeps from the forward to the backward pass, by the mode of checkpointing.

    A checkpointed layer leaves its input alone; when its turn comes, one layer's activations exist again.
    """
    layers, kept, left = e.active or e.shape.layers, layer(e), e.shape.hidden * e.stream_bytes
    checkpointed = {"none": 0, "selective": (layers + 1) // 2}.get(e.checkpointing, layers)
    inputs = min(2, layers) if e.checkpointing == "offloaded" else checkpointed
    a_token = (layers - checkpointed) * kept + inputs * left + (kept if checkpointed else 0) + around(e)
    return e.tokens * (a_token + workspace(e))


def last_layer(e: Estimate) -> float:
    """What is left when the backward pass has come to the first layer: its activations and its gradients."""
    return e.tokens * (layer(e) + workspace(e))


def layer(e: Estimate) -> float:
    """Bytes a token that one layer keeps without checkpointing.

    - Two norms compute in fp32 and keep their input so, 4h each, and the inverse root; one that trains keeps its
      result before the weight too, s·h.
    - Attention keeps queries, keys, values and its result, a + 2k + a, and fp32 sums of each head. Where padding
      needs a mask, keys and values are repeated for all heads, and the mask is kept as numbers, one for each key.
    - The gated MLP keeps gate, activation and the other half: 3f.
    - Linear maps keep their inputs, where something is learned from them: see :func:`inputs`.
    """
    shape, c = e.shape, e.compute_bytes
    queries, keys = shape.heads * shape.head_size, shape.key_heads * shape.head_size
    norms = 2 * (FP32 * shape.hidden + FP32) + (2 * e.stream_bytes * shape.hidden if e.trains_matrices else 0)
    masked = not e.packed and e.tokens > e.longest
    seen = 2 * queries + e.longest if masked else 2 * keys
    attention = (e.attention_bytes or c) * (2 * queries + seen) + FP32 * shape.heads
    return norms + attention + 3 * shape.intermediate * c + inputs(e)


def inputs(e: Estimate) -> float:
    """Bytes a token that one layer keeps of the inputs of its linear maps.

    A frozen map keeps none. One that trains keeps its input in the format it multiplies in: one copy for all that share
    it, but autocast casts anew for each. So does an adapter in another format than the layer; with dropout each
    has its own copy and a mask. An adapter also keeps its r numbers between the two products.
    """
    shape, c = e.shape, e.compute_bytes
    heads = shape.heads * shape.head_size
    if e.trains_matrices:
        if c < e.stream_bytes:
            return c * (5 * shape.hidden + shape.intermediate + (heads if e.packed else 0))
        return c * (2 * shape.hidden + shape.intermediate + (heads if e.packed else 0))
    if not e.adapted:
        return 0
    own = bool(e.mask_bytes) or e.trained_bytes != c
    copies = [shape.matrices[name][1] for name in (e.adapted if own else sharing(e.adapted))]
    if not own and not e.packed:  # attention's result is kept already
        copies = [shape.matrices[name][1] for name in sharing(e.adapted) if not name.endswith("o_proj")]
    rank = (e.added - e.copied) / max(sum(sum(shape.matrices[name]) for name in e.adapted), 1)
    return (sum(copies) * (e.trained_bytes + e.mask_bytes) + rank * e.trained_bytes * len(e.adapted)) / shape.layers


def sharing(names: Iterable[str]) -> list[str]:
    """One linear map for each different input."""
    found: dict[str, str] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        found.setdefault(name if last in BACK else module, name)
    return list(found.values())


def around(e: Estimate) -> float:
    """Bytes a token outside the layers: rotary angles, token and position, and the last norm.

    Under frozen embeddings the first layer's input has no gradient and is not kept, which pays for the last norm.
    """
    norm = (FP32 + e.stream_bytes) * e.shape.hidden if e.trains_matrices else 0
    return 2 * e.shape.head_size * e.stream_bytes + 8 + norm


def workspace(e: Estimate) -> float:
    """Bytes a token of gradients on their way through the widest part of a layer, the MLP: 3f, and of its input."""
    return e.compute_bytes * (2 * e.shape.intermediate + e.shape.hidden)


def logits(e: Estimate) -> float:
    """The head's own memory.

    Packed, logits exist for one chunk of labels, as the product and in fp32, beside the gradient of each label's hidden
    state (c·h); a head that trains makes its whole gradient in the forward pass. Padded, they exist for every position:
    the product, its fp32 copy where that is another, and the log-probabilities.
    """
    shape, c = e.shape, e.compute_bytes
    if not e.packed:
        return e.tokens * shape.vocabulary * (2 * FP32 + (c if c < FP32 else 0))
    rows = min(e.tokens, max(LEAST_ROWS, CHUNK_ELEMENTS // shape.vocabulary))
    gradient = FP32 * shape.vocabulary * shape.hidden if e.trains_head else 0
    return rows * shape.vocabulary * (c + FP32) + e.tokens * shape.hidden * c + gradient
