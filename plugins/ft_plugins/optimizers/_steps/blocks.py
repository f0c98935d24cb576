"""BAdam's optimizers, made to keep to the groups of a run and to go on exactly from a checkpoint.

The library keeps neither its place among the blocks nor its fp32 copies in a state, gives one learning rate and weight
decay to all, and seeds the random numbers of the whole process for each mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from badam import BlockOptimizer, BlockOptimizerRatio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class Layers(BlockOptimizer):  # type: ignore[misc]  # badam ships no types
    """AdamW on one layer at a time, in fp32 copies of its weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.state_dict  # which the library replaces by that of the optimizer inside

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """As the library's, which prints each switch whatever ``verbose`` it was made with."""
        super().switch_trainable_params(self.verbose)

    def _switch_trainable_params_single_gpu(self, verbose: int | None = None) -> None:
        super()._switch_trainable_params_single_gpu(verbose)
        copies = {id(own): self.param_idx2hp[index] for index, own in self.param_idx2lp.items()}
        self.base_optimizer.param_groups = [
            {**group, "params": [copies[id(own)] for own in group["params"] if id(own) in copies]}
            for group in self.param_groups
        ]

    def _update_lr(self) -> None:
        for own, inner in zip(self.param_groups, self.base_optimizer.param_groups, strict=True):
            inner["lr"] = own["lr"]

    def state_dict(self) -> dict[str, Any]:
        """The place among the blocks, the copies, and the state of the optimizer inside."""
        return {
            "block": self.block_prefix_list.index(self.active_param_prefixs),
            "next_block": self.current_block_idx,
            "order": list(getattr(self, "block_order", ())),
            "step": self.global_step,
            "copies": list(self.param_idx2hp.values()),
            "inner": self.base_optimizer.state_dict(),
            "groups": _settings(self),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to the block of the state."""
        saved = state_dict
        self.current_block_idx = saved["block"]
        self.switch_trainable_params()
        self.current_block_idx, self.block_order = saved["next_block"], list(saved["order"])
        self.global_step = saved["step"]
        with torch.no_grad():
            for copy, value in zip(self.param_idx2hp.values(), saved["copies"], strict=True):
                copy.copy_(value)
        self.base_optimizer.load_state_dict(saved["inner"])
        _restore_settings(self, saved["groups"])


class Ratio(BlockOptimizerRatio):  # type: ignore[misc]  # as above
    """AdamW on a share of the entries of every weight, which moves on from time to time."""

    def share_masks(self, seed: int) -> None:
        """One order of entries for all weights of a shape, as the library's state assumes."""
        for entry in self.sparse_dict.values():
            entry["seed"] = seed

    def _generate_mask_scatter(self, param: Tensor, ratio: float, offset: int) -> Tensor:
        with torch.random.fork_rng([param.device] if param.is_cuda else []):
            mask: Tensor = super()._generate_mask_scatter(param, ratio, offset)
        return mask

    def state_dict(self) -> dict[str, Any]:
        """The library's, with its place."""
        offsets = [self.sparse_dict[parameter]["offset"] for _, parameter in self.named_parameters_list]
        return {**super().state_dict(), "offsets": offsets, "step": self.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to the entries of the state."""
        saved = dict(state_dict)
        self.global_step = saved.pop("step")
        for (_, parameter), offset in zip(self.named_parameters_list, saved.pop("offsets"), strict=True):
            self.sparse_dict[parameter]["offset"] = offset
        self.mask_dict: dict[torch.Size, Tensor] = {}
        super().load_state_dict(saved)


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """torch's, for gradients that may be sparse. The library's own leaves the values of sparse ones as they were."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    total = torch.nn.utils.get_total_norm(values, norm_type)
    share = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for one in values:
        one.mul_(share)
    return total


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _restore_settings(optimizer: torch.optim.Optimizer, saved: list[dict[str, Any]]) -> None:
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        group.update(settings)
