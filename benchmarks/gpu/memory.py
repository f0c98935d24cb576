"""The estimate of a step's memory beside the peak that CUDA allocated: within 10 %."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from check import Check, Place, neighbour

from ft.estimate import gigabytes, peak
from ft.training import Engine, unwrap
from ft_hookspecs import Estimate, ModelShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from ft_hookspecs import Checkpointing

speed = neighbour("speed")
BOUND = 0.10
RANK = 16
MODES: tuple[Checkpointing, ...] = ("none", "selective", "full", "offloaded")


def checks() -> Iterable[Check]:
    """Each shape and method in each mode of checkpointing; full fine-tuning of 8B needs four times its weights."""
    for name, shape in speed.SHAPES.items():
        for method, needs in speed.METHODS.items():
            for mode in MODES:
                run, least = partial(compare, name, method, mode), shape.gigabytes if method == "full" else 0
                yield Check(f"{name} {method} {mode}", run, needs, alone=True, gigabytes=least)


def compare(shape: str, method: str, mode: Checkpointing, place: Place) -> Mapping[str, Any]:
    """Three steps; the peak is that of the last, when the optimizer's states are there."""
    from ft_plugins.accelerators._layers.recompute import checkpoint_layers

    sizes = speed.SHAPES[shape]
    model = speed.made(sizes, method, place)
    estimate = estimated(model, method, mode, speed.sequences(sizes, place))
    if mode != "none":
        checkpoint_layers(model, mode, every=2 if mode == "selective" else 1)
    data, engine = speed.batch(sizes, place, 0), Engine(model, "packed")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    for _ in range(3):
        if place.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        engine.cross_entropy(data, len(data["targets"])).backward()
        optimizer.step()
        optimizer.zero_grad()
    said = peak(estimate)
    if place.device == "cpu":  # nothing counts what a CPU allocates
        return {"estimated": gigabytes(said)}
    found = torch.cuda.max_memory_allocated()
    assert abs(said / found - 1) <= BOUND, f"{gigabytes(said)} estimated, {gigabytes(found)} allocated"
    return {"estimated": gigabytes(said), "allocated": gigabytes(found), "error": f"{said / found - 1:+.1%}"}


def estimated(model: nn.Module, method: str, mode: Checkpointing, lengths: list[int]) -> Estimate:
    """What planning would say of this model, whose shapes stand in its configuration."""
    shape = shape_of(model)
    names = () if method == "full" else tuple(shape.matrices)
    added = RANK * sum(sum(shape.matrices[name]) for name in names)
    whole = method == "full"
    return Estimate(
        shape,
        tokens=sum(lengths),
        longest=max(lengths),
        weight_bytes=2,
        matrix_bytes=0.5 + 1 / 64 if method == "qlora" else None,  # nf4, and a doubly quantised scale of 64 weights
        compute_bytes=2,
        stream_bytes=2,
        trained=shape.parameters if whole else added,
        added=added,
        trained_bytes=2 if whole else 4,
        state_bytes=4 if whole else 8,
        adapted=names,
        trains_matrices=whole,
        trains_head=whole,
        checkpointing=mode,
    )


def shape_of(model: nn.Module) -> ModelShape:
    """Shapes of the weights as files would hold them: of a model of the same configuration, on no device."""
    from transformers import AutoModelForCausalLM

    config: Any = unwrap(model).config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
        tensors={name: tuple(parameter.shape) for name, parameter in plain.named_parameters()},
    )
