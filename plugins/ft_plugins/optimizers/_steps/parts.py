"""Two optimizers that are one to the trainer."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class Parts(Optimizer):
    """Several optimizers, each with groups of its own, under one state and one schedule.

    Args:
        parts: made already, over parameters that no other has.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        groups = [{**group, "part": place} for place, part in enumerate(parts) for group in part.param_groups]
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> Any:
        """Each part steps its groups, which the schedule or a checkpoint may have replaced since."""
        loss = None if closure is None else closure()
        for place, part in enumerate(self.parts):
            part.param_groups = [group for group in self.param_groups if group["part"] == place]
            part.state = self.state
            part.step()
        return loss
