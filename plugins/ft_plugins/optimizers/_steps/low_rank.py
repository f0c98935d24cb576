"""Optimizers that keep the state of a weight's gradient in few dimensions, made to fit a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from ft.errors import ConfigError, nearest
from ft_plugins.adapters._targets import ALL, SHOWN, linear_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ft_hookspecs import Run

Group = dict[str, Any]


def projected_groups(
    groups: Sequence[Group], model: nn.Module, targets: Sequence[str], settings: Group, key: str, where: str
) -> list[Group]:
    """The groups, of which the weights of the targeted layers form groups of their own with ``settings``.

    Args:
        groups: of :func:`ft.training.parameter_groups`.
        model: what trains.
        targets: names of linear layers or of modules that hold some, or ``all``.
        settings: what the library wants in a projected group, ``rank`` among it.
        key: the configuration key of the targets, for messages.
        where: its place.

    Raises:
        ConfigError: a target means no layer that trains, or a weight's smaller side is not above the rank.
    """
    meant = {id(weight): name for name, weight in _weights(model, targets, key, where).items()}
    split = []
    for group in groups:
        chosen = [parameter for parameter in group["params"] if id(parameter) in meant]
        _check_rank({meant[id(weight)]: weight for weight in chosen}, settings["rank"], key)
        others = [parameter for parameter in group["params"] if id(parameter) not in meant]
        split += [{**group, "params": others}, {**group, "params": chosen, **settings}]
    return [group for group in split if group["params"]]


def _weights(model: nn.Module, targets: Sequence[str], key: str, where: str) -> dict[str, Tensor]:
    layers = linear_layers(model)
    modules = dict(model.named_modules())
    trained = {name: modules[name].weight for name in layers if modules[name].weight.requires_grad}
    found, wrong = {}, []
    for target in targets:
        matches = [name for name in trained if target == ALL or f".{target}." in f".{name}."]
        found.update({name: trained[name] for name in matches})
        wrong += [] if matches else [target]
    if wrong:
        parts = {part for name in trained for part in name.split(".") if not part.isdecimal()}
        near = [match for one in wrong for match in nearest(one, parts)]
        raise ConfigError(
            f"{key}: no linear layer that trains is called {' or '.join(map(repr, wrong))}, or lies in such a module",
            where=where,
            why="the layers are in " + ", ".join(sorted(parts)[:SHOWN]),
            remedy=f"did you mean {', '.join(near)}?" if near else f"name some of them, or {key}: {ALL}",
        )
    return found


def _check_rank(weights: dict[str, Tensor], rank: int, key: str) -> None:
    small = {name: min(weight.shape) for name, weight in weights.items() if min(weight.shape) <= rank}
    if small:
        name, side = min(small.items(), key=lambda one: one[1])
        raise ConfigError(
            f"{key.replace('target', 'rank')}: {rank} is not below the smaller side of {name}, which is {side}",
            why="a gradient of that rank is not projected at all, and only costs more",
            remedy=f"set a rank below {side}, or leave such layers out of {key}",
        )


class Resumable:
    """Stands before an optimizer of galore_torch or apollo_torch, whose projectors are objects: no checkpoint has them.

    In a state they are what changes of them; what they are made with stands in the parameter group.
    """

    param_groups: list[Group]
    state: Any

    def new_projector(self, group: Group, state: dict[str, Any]) -> Any:
        """A projector as the library makes it for a parameter of the group."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """As the library's, with tensors and numbers only."""
        tree: dict[str, Any] = super().state_dict()  # type: ignore[misc]  # the optimizer stands behind this class
        tree["state"] = {key: _plain(state) for key, state in tree["state"].items()}
        return tree

    def __setstate__(self, tree: dict[str, Any]) -> None:
        """The end of every ``load_state_dict``, torch's and that of bitsandbytes."""
        super().__setstate__(tree)  # type: ignore[misc]  # as above
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if isinstance(saved := state.get("projector"), dict):
                    state["projector"] = self.new_projector(group, state)
                    vars(state["projector"]).update(_on(parameter.device, saved))


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    if "projector" not in state:
        return state
    kept = {name: _flat(value) for name, value in vars(state["projector"]).items() if name in MOVING}
    return {**state, "projector": kept}


def _flat(value: Any) -> Any:
    """Matrices with how they lie in memory: a product by one that lies otherwise is rounded otherwise."""
    match value:
        case torch.Tensor():
            return {"values": value, "strides": list(value.stride())}
        case list():
            return [_flat(one) for one in value]
    return value


MOVING: Final = frozenset({"ortho_matrix", "seed", "svd_count"})
"""What changes of a projector while it is used."""


def _on(device: torch.device, value: Any) -> Any:
    match value:
        case {"values": values, "strides": strides}:
            return torch.empty_strided(values.shape, strides, dtype=values.dtype, device=device).copy_(values)
        case dict():
            return {name: _on(device, one) for name, one in value.items()}
        case list():
            return [_on(device, one) for one in value]
    return value


def resumable(kind: type[Optimizer], new_projector: Callable[[Any, Group, dict[str, Any]], Any]) -> Any:
    """The library's class, which is untyped, with :class:`Resumable` before it."""
    return type(kind.__name__, (Resumable, kind), {"new_projector": new_projector})


def step_in_backward(optimizer: Optimizer, run: Run) -> Optimizer:
    """Each weight is stepped as soon as its gradient is there, and the gradient freed: never are all there at once.

    The optimizer stays one, with its groups: at each gradient it finds only that one. So the schedule, its state and a
    step are those of the optimizer without this.
    """
    step = type(optimizer).step  # the instance's counts calls for the schedule

    def use(parameter: Tensor) -> None:
        step(optimizer)
        parameter.grad = None

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(use)
    run.decide("each weight is stepped within the backward pass: gradients are neither clipped nor measured")
    return optimizer
