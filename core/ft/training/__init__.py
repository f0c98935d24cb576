"""Training: packed batches, an exact and fast step, and the trainer around it. Public, also for third parties.

Attributes load on first use, so that a plugin may import this package at module level without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ft.training.arguments import training_arguments
    from ft.training.checkpoints import checkpoint_to_resume, latest_checkpoint
    from ft.training.engine import Engine, evaluating
    from ft.training.generation import generate, generation_settings, idle_generation_keys, sample
    from ft.training.measures import evaluate_loss, evaluate_measures
    from ft.training.packing import PackedBatch, pack, pad, per_sequence
    from ft.training.precision import choose_dtype, precision_problems
    from ft.training.trainer import PackedTrainer

_HOMES: Final = {
    "Engine": "engine",
    "PackedBatch": "packing",
    "PackedTrainer": "trainer",
    "checkpoint_to_resume": "checkpoints",
    "choose_dtype": "precision",
    "evaluate_loss": "measures",
    "evaluate_measures": "measures",
    "evaluating": "engine",
    "generate": "generation",
    "generation_settings": "generation",
    "idle_generation_keys": "generation",
    "latest_checkpoint": "checkpoints",
    "pack": "packing",
    "pad": "packing",
    "per_sequence": "packing",
    "precision_problems": "precision",
    "sample": "generation",
    "training_arguments": "arguments",
}

__all__ = [
    "Engine",
    "PackedBatch",
    "PackedTrainer",
    "checkpoint_to_resume",
    "choose_dtype",
    "evaluate_loss",
    "evaluate_measures",
    "evaluating",
    "generate",
    "generation_settings",
    "idle_generation_keys",
    "latest_checkpoint",
    "pack",
    "pad",
    "per_sequence",
    "precision_problems",
    "sample",
    "training_arguments",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
