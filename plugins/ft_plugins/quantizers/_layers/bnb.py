"""What bitsandbytes' layers need before they can be trained through, also after an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitsandbytes import MatmulLtState
from bitsandbytes.nn import Linear4bit, Linear8bitLt

if TYPE_CHECKING:
    from torch import nn


class ExactState(MatmulLtState):  # type: ignore[misc]  # bitsandbytes ships no types
    """The state of an 8-bit layer on a CPU: training's product in evaluation too.

    bitsandbytes multiplies there by the dequantised weights in training, and rounds inputs to 8 bits in evaluation
    alone: a policy in training and its reference in evaluation would differ before the first step.
    """

    @property
    def is_training(self) -> bool:
        return True

    @is_training.setter
    def is_training(self, _: bool) -> None: ...


def make_trainable(model: nn.Module) -> None:
    """Keep 4-bit weights in the packing that has a gradient, and 8-bit products the same in training and evaluation.

    On a CPU with AVX512-BF16, the first forward of an evaluation packs 4-bit weights anew, for a product without a
    backward: training afterwards has gradients of zero below each such layer. That packing also rounds the scales to
    bfloat16 and cannot be undone exactly, so it must never happen. Evaluation takes the product of training instead.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt) and module.weight.device.type == "cpu":
            module.state.__dict__.pop("is_training", None)
            module.state.__class__ = ExactState
