"""Training: packed batches, an exact and fast step, and the trainer around it. Public, also for third parties.

Attributes load on first use, so that a plugin may import this package at module level without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ft.training.arguments import training_arguments
    from ft.training.attention import Kernel, use_attention_kernel
    from ft.training.capability import base_dtype, obstacles, unwrap
    from ft.training.checkpoints import checkpoint_to_resume, latest_checkpoint
    from ft.training.engine import Engine, evaluating
    from ft.training.generation import generate, generation_settings, sample
    from ft.training.measures import evaluate_loss, evaluate_measures
    from ft.training.optimization import parameter_groups
    from ft.training.packing import PackedBatch, pack, pad, per_sequence
    from ft.training.reference import Reference, precompute, reference_for
    from ft.training.trainer import PackedTrainer
    from ft.training.values import (
        ValueHead,
        attach_value_head,
        load_value_head,
        read_value_head,
        save_value_head,
        value_head,
    )

_HOMES: Final = {
    "Engine": "engine",
    "Kernel": "attention",
    "PackedBatch": "packing",
    "PackedTrainer": "trainer",
    "Reference": "reference",
    "ValueHead": "values",
    "attach_value_head": "values",
    "base_dtype": "capability",
    "checkpoint_to_resume": "checkpoints",
    "evaluate_loss": "measures",
    "evaluate_measures": "measures",
    "evaluating": "engine",
    "generate": "generation",
    "generation_settings": "generation",
    "latest_checkpoint": "checkpoints",
    "load_value_head": "values",
    "obstacles": "capability",
    "pack": "packing",
    "pad": "packing",
    "parameter_groups": "optimization",
    "per_sequence": "packing",
    "precompute": "reference",
    "read_value_head": "values",
    "reference_for": "reference",
    "sample": "generation",
    "save_value_head": "values",
    "training_arguments": "arguments",
    "unwrap": "capability",
    "use_attention_kernel": "attention",
    "value_head": "values",
}

__all__ = [
    "Engine",
    "Kernel",
    "PackedBatch",
    "PackedTrainer",
    "Reference",
    "ValueHead",
    "attach_value_head",
    "base_dtype",
    "checkpoint_to_resume",
    "evaluate_loss",
    "evaluate_measures",
    "evaluating",
    "generate",
    "generation_settings",
    "latest_checkpoint",
    "load_value_head",
    "obstacles",
    "pack",
    "pad",
    "parameter_groups",
    "per_sequence",
    "precompute",
    "read_value_head",
    "reference_for",
    "sample",
    "save_value_head",
    "training_arguments",
    "unwrap",
    "use_attention_kernel",
    "value_head",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
