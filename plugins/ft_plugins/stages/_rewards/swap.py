"""A second LoRA adapter on the policy's own base, in the place of the policy's while it scores.

What PEFT put into the model are wrappers around its layers. Those of the policy are taken out and those of the reward
model put in, around the same layers, and back again: a few hundred assignments. Outside of a score the model is exactly
the policy; whoever saves, trains or counts it finds no trace of the other.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ft.training import evaluating
from ft_plugins import _saved_adapters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from peft import PeftModel
    from torch import nn


class SecondAdapter:
    """The model with another adapter.

    Args:
        policy: a model inside PEFT; its adapter and whether each parameter trains stay as they are.
        folder: of the other adapter, which never trains.

    Attributes:
        model: the other adapter around the policy's base; to be used only within :meth:`in_place`.

    Raises:
        DataError: the adapter does not fit the model.
    """

    def __init__(self, policy: PeftModel, folder: Path) -> None:
        self.base: nn.Module = policy.get_base_model()
        own = wrappers(self.base)
        bare = {name: unwrapped(module) for name, module in own.items()}
        put(self.base, bare)
        with evaluating(self.base), _as_it_was(self.base):
            self.model: nn.Module = _saved_adapters.put_on(cast("Any", self.base), folder)
        other = wrappers(self.base)
        self._in = bare | other
        self._out = {name: unwrapped(module) for name, module in other.items()} | own
        put(self.base, self._out)

    @contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """The model with the other adapter, in evaluation mode; afterwards it is the policy again."""
        device = next(self.base.parameters()).device
        with evaluating(self.base):
            put(self.base, {name: module.to(device) for name, module in self._in.items()})  # moved once, on a GPU
            self.model.eval()
            try:
                yield self.model
            finally:
                put(self.base, self._out)


def wrappers(model: nn.Module) -> dict[str, nn.Module]:
    """What PEFT has put into a model, by name; not what lies inside of another wrapper."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{other}.") for other in found)
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not is_inside:
            found[name] = module
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """What a wrapper is around."""
    wrapper: Any = module
    inner: nn.Module = wrapper.get_base_layer() if hasattr(wrapper, "get_base_layer") else wrapper.original_module
    return inner


def put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put each module in its place, by name."""
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)


@contextmanager
def _as_it_was(base: nn.Module) -> Iterator[None]:
    """PEFT freezes what it wraps, and adds its configuration to one that it finds: both are put back."""
    config = base.__dict__.pop("peft_config", None)
    trains = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    try:
        yield
    finally:
        base.__dict__["peft_config"] = config
        for parameter, did in trains:
            parameter.requires_grad_(did)
