"""How much memory a run will take, before anything is loaded. Public: plugins that decide by it may import it.

A plan and the headers of the model's files say most of it; plugins correct the rest in ``ft_estimate``.
"""

from ft.estimate.composition import estimate_memory, estimate_or_note
from ft.estimate.devices import DeviceMemory, room
from ft.estimate.report import describe, gigabytes, warning
from ft.estimate.shape import UnknownShapeError, experts_of, read_shape, read_weights
from ft.estimate.terms import Term, peak, terms

__all__ = [
    "DeviceMemory",
    "Term",
    "UnknownShapeError",
    "describe",
    "estimate_memory",
    "estimate_or_note",
    "experts_of",
    "gigabytes",
    "peak",
    "read_shape",
    "read_weights",
    "room",
    "terms",
    "warning",
]
