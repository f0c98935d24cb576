"""Decoder layers that make their activations again in the backward pass.

transformers calls a layer of class ``GradientCheckpointingLayer`` through the function that is put on it here. What a
packed batch hands down (its boundaries) is part of that call, so that a layer is recomputed with its own batch's, and
dropout with the same random numbers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ft_hookspecs import Checkpointing


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that can be checkpointed, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}


def checkpoint_layers(model: nn.Module, mode: Checkpointing, every: int = 1, **options: Any) -> list[str]:
    """Checkpoint each layer, or of every ``every`` layers the first.

    Args:
        model: of transformers, perhaps inside PEFT.
        mode: ``offloaded`` moves the layers' inputs to the host's memory.
        every: 2 is what ``selective`` means.
        options: further keyword arguments of ``torch.utils.checkpoint.checkpoint``.

    Returns:
        the names of the layers.
    """
    run: Callable[..., Any] = partial(checkpoint, use_reentrant=False, **options)
    if mode == "offloaded":
        run = partial(_offloaded, run, _Host())
    chosen = dict(list(find_layers(model).items())[::every])
    for layer in chosen.values():
        layer.gradient_checkpointing = True  # type: ignore[assignment]  # an attribute of transformers' class
        layer._gradient_checkpointing_func = run  # type: ignore[assignment]  # likewise
    return list(chosen)


def keep_on(model: Any, again: Callable[[], Any]) -> None:
    """What switches checkpointing off and on (TRL, while it generates) calls ``again`` to switch it on."""

    def enable(*_: Any, **__: Any) -> None:
        again()

    model.gradient_checkpointing_enable = enable
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable = enable


def _offloaded(run: Callable[..., Any], host: _Host, function: Callable[..., Any], *inputs: Any) -> Any:
    """The layer's inputs are saved outside the checkpoint, so that these hooks see them and nothing else."""
    with saved_tensors_hooks(host.store, host.fetch):
        return run(function, *inputs)


class _Host:
    """Keeps tensors in the host's memory until the backward pass asks for them.

    On a GPU copies run on a stream of their own, into pinned memory: the next layer computes meanwhile. The input of
    the layer before is fetched when a layer's is asked for.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]  # torch's gap
        self._last: Callable[[], _Stored | None] = lambda: None

    def store(self, tensor: Tensor) -> _Stored:
        stored = _Stored(tensor, self._stream, before=self._last)
        self._last = ref(stored)  # autograd owns it: a graph that is thrown away leaves nothing here
        return stored

    def fetch(self, stored: _Stored) -> Tensor:
        return stored.take()


class _Stored:
    """One tensor on the host; ``before`` is the one that was stored before it and will be asked for after it."""

    def __init__(self, tensor: Tensor, stream: torch.cuda.Stream | None, before: Callable[[], _Stored | None]) -> None:
        self._stream, self._before, self._device = stream, before, tensor.device
        self._fetched: Tensor | None = None
        self._copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())  # what computes the tensor comes first
            tensor.record_stream(stream)
        with torch.cuda.stream(stream):
            self._copy.copy_(tensor, non_blocking=True)

    def take(self) -> Tensor:
        """The tensor on its device again; the one before it is on its way."""
        found = self._load()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
            found.record_stream(torch.cuda.current_stream())
        if (before := self._before()) is not None:
            before._load()
        self._fetched = None
        return found

    def _load(self) -> Tensor:
        if self._fetched is None:
            with torch.cuda.stream(self._stream):
                self._fetched = self._copy.to(self._device, non_blocking=True, copy=True)
        return self._fetched
