"""What every quantizer asks of a plan, and what it says of a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ft.devices import SHARDING, sharding_problems
from ft.errors import ConfigError
from ft.quantization import OTHER_MODELS, is_quantised, mark, numbers_in, quantizer, stored_bytes
from ft_hookspecs import Change, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import torch
    from torch import nn

    from ft_hookspecs import Plan

BITS: Final = "quantization_bit"


def bits_of(plan: Plan, default: int = 0) -> int:
    """The bits of the model at hand; 0 when this plugin is not to quantise it."""
    return plan.get(BITS) or (default if quantizer(plan) else 0)


def asked_bits(plan: Plan) -> dict[str, int]:
    """Every key of the plan that asks for bits, and how many; that of the model that trains first."""
    keys = [BITS, *sorted(key for key in plan.values if key.endswith(OTHER_MODELS))]
    return {key: plan.values[key] for key in keys if plan.get(key) is not None}


def problems(plan: Plan, name: str, widths: Collection[int], default: int = 0) -> Iterator[Problem]:
    """What no quantizer can do, for the one called ``name`` that knows ``widths`` of bits."""
    asked = asked_bits(plan)
    known = " or ".join(map(str, widths))
    for key, bits in asked.items():
        if bits not in widths:
            yield Problem(
                f"{key}: {name} does not support {bits} bits",
                why=f"{name} quantises to {known} bits",
                remedy=f"set {key} to {known}, or another quantization_method",
                keys=(key, "quantization_method"),
            )
    if not asked and not default:
        yield Problem(
            f"{name} is not told how many bits",
            why=f"{name} quantises to {known} bits",
            remedy=f"set quantization_bit: {4 if 4 in widths else known}",
            keys=("plugins",),
        )
    yield from _several(plan, name)


def _several(plan: Plan, name: str) -> Iterator[Problem]:
    names = [info.name for info in plan.plugins if info.kind == "quantizers"]
    if len(names) > 1 and names[0] == name:
        yield Problem(
            f"only one of {' and '.join(names)} can quantise the model",
            why="weights are quantised once",
            remedy=f"keep one: quantization_method: {names[0]}",
            keys=("quantization_method", BITS, "plugins"),
        )


def whole_problems(plan: Plan, name: str, why: str, by: tuple[str, ...] = SHARDING) -> Iterator[Problem]:
    """Weights that cannot be spread over processes."""
    remedy = "so that each process holds all of the quantised weights"
    yield from sharding_problems(plan, name, why, remedy, ("quantization_method", BITS), by)


def device_of(plan: Plan) -> torch.device:
    """Where this process will train."""
    import torch

    if plan.get("use_cpu") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The plain linear layers by name, without the head, whose rounding would fall on every word alike."""
    from torch import nn

    head, kept = model.get_output_embeddings(), tuple(model._keep_in_fp32_modules or ())
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and not any(part in name for part in kept)
    }


def quantised(plan: Plan, model: Any, name: str, form: str, before: int) -> Change:
    """The record of what was done: how many layers, bytes before and after, and what stays as it was.

    Raises:
        ConfigError: nothing was done.
    """
    from torch import nn

    layers = frozenset(path for path, module in model.named_modules() if is_quantised(module))
    if not layers:
        keys = (BITS, "quantization_method", "model_name_or_path")
        raise ConfigError(
            f"{name} found no layer of {type(model).__name__} to quantise",
            where=next((str(plan.sources[key]) for key in keys if plan.is_set(key)), ""),
            why="it acts on torch's linear layers, and on no others",
            remedy="take quantisation out, or set quantization_method: bnb, which knows GPT-2's layers too",
        )
    mark(model, name)
    model.requires_grad_(False)
    plain = (nn.Linear, nn.Embedding)
    kept = [path for path, each in model.named_modules() if isinstance(each, plain) and not is_quantised(each)]
    after = stored_bytes(model)
    stays = f"; {', '.join(kept)} stay{'s' if len(kept) == 1 else ''} as loaded" if kept else ""
    summary = f"{name} ({form}): {len(layers)} layers, weights {in_units(before)} → {in_units(after)}{stays}"
    details = {"quantization": name, "bytes_before": before, "bytes_after": after, "kept": kept}
    return Change(model, summary, layers, details)


def in_units(size: int) -> str:
    """``269.0 MB``."""
    unit, factor = next(((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6)) if size >= factor), ("kB", 1e3))
    return f"{size / factor:.1f} {unit}"


def unquantised_bytes(model: Any) -> int:
    """What the weights would take in the number format that the model was loaded in."""
    from torch import nn

    size = {
        parameter: parameter.element_size() if parameter.is_floating_point() else model.dtype.itemsize
        for parameter in model.parameters()
    }
    packed = {module.weight for module in model.modules() if isinstance(module, nn.Linear) and is_quantised(module)}
    return sum(numbers_in(each) * (model.dtype.itemsize if each in packed else size[each]) for each in size)
