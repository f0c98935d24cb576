"""Quantised weights, whoever made them: which they are, what they stand for, and the bytes that they take.

A quantizer plugin says what it did with :func:`mark`; models whose files were quantised already carry transformers' own
record. Everything else asks here, so that no one else need know the classes of bitsandbytes, HQQ and the like.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ft.errors import ConfigError
from ft.files import MODEL_CONFIG, json_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from ft_hookspecs import Plan, PluginInfo

MARK: Final = "_ft_quantization"
OTHER_MODELS: Final = "_model_quantization_bit"
"""How the keys end that quantise another model of the run, and not the one that trains."""


# ---- while planning: nothing heavy is imported --------------------------------------------------------------------


def quantizer(plan: Plan) -> PluginInfo | None:
    """The plugin that quantises the model that trains; ``None`` also for one that serves another model alone."""
    is_for_another = plan.get("quantization_bit") is None and any(
        key.endswith(OTHER_MODELS) and value is not None for key, value in plan.values.items()
    )
    return None if is_for_another else plan.plugin("quantizers")


def quantised_files(folder: Path | str) -> Mapping[str, Any]:
    """``quantization_config`` of a model's ``config.json``; empty when its weights are plain or nothing can be read."""
    config = json_object(Path(folder).expanduser() / MODEL_CONFIG)
    found = config.get("quantization_config") or config.get("compression_config")
    return found if isinstance(found, dict) else {}


def method_of(config: Mapping[str, Any]) -> str:
    """The method of a ``quantization_config`` as transformers names it; old files of bitsandbytes say only the bits."""
    is_bnb = config.get("load_in_4bit") or config.get("load_in_8bit")
    return str(config.get("quant_method") or ("bitsandbytes" if is_bnb else "unknown"))


# ---- models -------------------------------------------------------------------------------------------------------


def mark(model: nn.Module, name: str) -> None:
    """Record on a model how its weights are quantised: ``method-bits``."""
    model.__dict__[MARK] = name


def quantization_of(model: nn.Module) -> str | None:
    """How the weights of a model, perhaps inside PEFT, are quantised: ``bnb-4``, ``hqq-4``, ``gptq`` …; or ``None``."""
    get_base = getattr(model, "get_base_model", None)
    base: Any = get_base() if callable(get_base) else model
    if (name := base.__dict__.get(MARK)) is not None:
        return cast("str", name)
    method = getattr(getattr(getattr(base, "hf_quantizer", None), "quantization_config", None), "quant_method", None)
    if method is None:
        return None
    method = str(getattr(method, "value", method))
    bits = 4 if getattr(base, "is_loaded_in_4bit", False) else 8
    return f"bnb-{bits}" if method == "bitsandbytes" else method


def is_quantised(module: nn.Module) -> bool:
    """Whether a module holds one weight matrix in fewer bits than it stands for."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    weight = getattr(module, "weight", None)
    return hasattr(module, "W_q") or is_traceable_wrapper_subclass(weight) or _bnb_kind(weight) is not None


def dequantized(module: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer, perhaps inside an adapter's wrapper, in fp32 and on its device.

    A plain layer's weight is given as it is, in fp32; what is returned is never to be written into.

    Raises:
        ConfigError: weights of a kind that only its own kernels can read.
    """
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    get_base: Any = getattr(module, "get_base_layer", None)
    layer: Any = module if get_base is None else get_base()
    with torch.no_grad():
        weight: Any = getattr(layer, "weight", None)
        if hasattr(layer, "W_q"):  # HQQ
            return cast("Tensor", layer.dequantize().float())
        if is_traceable_wrapper_subclass(weight):
            return cast("Tensor", cast("Any", weight).dequantize().float())
        if kind := _bnb_kind(weight):
            return _DEQUANTISE[kind](layer)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or weight.element_size() < 2:
            raise ConfigError(
                f"the weights of {type(layer).__name__} cannot be dequantised",
                remedy="start from the model's unquantised files",
            )
        return weight.detach().float()


def _bnb_kind(weight: object) -> str | None:
    """The class of bitsandbytes, known by name, so that it need not be installed."""
    name = type(weight).__name__
    return name if name in _DEQUANTISE else None


def _dequantise_4bit(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return cast("Tensor", dequantize_4bit(layer.weight.data, layer.weight.quant_state).float())


def _dequantise_8bit(layer: Any) -> Tensor:
    scale = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB  # the first forward moves it
    return cast("Tensor", layer.weight.data.float() * (scale.to(layer.weight.device).float() / 127)[:, None])


_DEQUANTISE: Final = {"Params4bit": _dequantise_4bit, "Int8Params": _dequantise_8bit}


# ---- size ---------------------------------------------------------------------------------------------------------


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are stored, with the scales and codes of quantised ones; shared ones once."""
    held: dict[tuple[int, int], int] = {}
    for module in model.modules():
        for tensor in _tensors(module):
            size = tensor.numel() * tensor.element_size()
            held[tensor.data_ptr() or id(tensor), size] = size
    return sum(held.values())


def numbers_in(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for, however they are packed."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None) or getattr(parameter, "unpacked_shape", None)
    return parameter.numel() if shape is None else int(shape.numel())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of one module: its parameters, and what quantised layers keep beside them."""
    for parameter in module.parameters(recurse=False):
        yield from _parts(parameter)
        for name in ("quant_state", "SCB"):
            yield from _parts(getattr(parameter, name, None))
    for name in ("meta", "state"):
        yield from _parts(module.__dict__.get(name))


def _parts(holder: Any, depth: int = 3) -> Iterator[Tensor]:
    """The plain tensors in a tensor of tensors, a mapping or a record, and in those inside of it."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(holder):
        yield from (getattr(holder, name) for name in holder.__tensor_flatten__()[0])
    elif isinstance(holder, torch.Tensor):
        yield holder
    elif holder is not None and depth:
        inner = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
        for value in inner.values():
            yield from _parts(value, depth - 1)
