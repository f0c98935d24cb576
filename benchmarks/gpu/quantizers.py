"""Quantised layers on a GPU: each against its own dequantised weights, its gradient, and the memory it takes."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft  # noqa: F401 - the first adapter would import it, when time counts
import torch
from check import Check, Place

import ft.lifecycle
import ft.planning  # noqa: F401 - likewise, and the one above
from ft.quantization import dequantized, stored_bytes
from ft.testing import save_tiny_model
from ft.testing.surgery import changed_model

if TYPE_CHECKING:
    from collections.abc import Iterable

QUANTIZERS = {
    "bnb-4": {"quantization_bit": 4},
    "bnb-8": {"quantization_bit": 8},
    "hqq-4": {"quantization_bit": 4, "quantization_method": "hqq"},
    "hqq-8": {"quantization_bit": 8, "quantization_method": "hqq"},
    "eetq-8": {"quantization_bit": 8, "quantization_method": "eetq"},
    "eetq-8 in float16": {"quantization_bit": 8, "quantization_method": "eetq", "dtype": "float16"},
}
BOUNDS = {"bnb-8": 0.05, "eetq-8 in float16": 0.02}
"""Of the logits, as a share of their standard deviation: LLM.int8() rounds the inputs of each layer too, and EETQ's
kernels, which are for float16 alone, each result."""

BOUND, GRADIENT = 1e-3, 0.1
SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8}


def checks() -> Iterable[Check]:
    """One a quantizer: the difference of the logits is the figure that the bound is for."""
    packages: dict[str, tuple[str, ...]] = {"bnb": ("bitsandbytes",), "hqq": ("hqq",)}
    for name in QUANTIZERS:
        needs = ("EETQ",) if "float16" in name else packages.get(name.partition("-")[0], ())
        yield Check(f"{name} equals its dequantised weights", partial(measure, name), needs, seconds=90)


def measure(name: str, place: Place) -> dict[str, Any]:
    """Logits and adapter gradients against a twin with the dequantised weights in fp32, and bytes on the device.

    Raises:
        AssertionError: a difference beyond its bound, or weights that are not smaller.
    """
    with tempfile.TemporaryDirectory() as place_of:
        folder = save_tiny_model(Path(place_of) / "model", **({} if place.tiny else SIZES))
        usual = {"model_name_or_path": folder, "finetuning_type": "lora", "lora_rank": 8}
        usual |= {"use_cpu": place.device == "cpu"}
        runs = [changed_model({**usual, **more}, Path(place_of))[0] for more in (QUANTIZERS[name], {})]
        change = runs[0].changes[0][1]
        models = [run.model.to(place.device) for run in runs]
        same_adapter(*models)
        for layer in change.modules:
            theirs, ours = (model.get_base_model().get_submodule(layer).get_base_layer() for model in models)
            with torch.no_grad():
                ours.weight.copy_(dequantized(theirs))
        found, wanted = (passed(model) for model in models)
        evaluated = passed(models[0])
        sizes = [stored_bytes(model) for model in models]
    logits = ((found[0] - wanted[0]).abs().mean() / wanted[0].std()).item()
    gradient = max(apart(each, wanted[1]) for each in (found[1], evaluated[1]))
    assert logits <= BOUNDS.get(name, BOUND), f"logits differ by {logits:.1e}"
    assert gradient <= (GRADIENT if name in BOUNDS else BOUND), f"gradients differ by {gradient:.1e}"
    assert sizes[0] < sizes[1], "the weights are not smaller"
    return {
        "logits off": f"{logits:.1e}",
        "gradients off": f"{gradient:.1e}",
        "bytes": sizes[0],
        "bytes fp32": sizes[1],
        "says": change.summary,
    }


def same_adapter(one: Any, other: Any) -> None:
    """The same adapter on both, one that already changes something."""
    torch.manual_seed(0)
    theirs = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.02)
            theirs[name].data.copy_(parameter.data)


def passed(model: Any) -> tuple[Any, dict[str, Any]]:
    """Logits in evaluation, and then the gradients of the adapter in training."""
    ids = torch.randint(4, 384, (2, 64), generator=torch.Generator().manual_seed(0)).to(model.device)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits.float()
    model.train().zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return logits, {name: each.grad.float() for name, each in model.named_parameters() if each.requires_grad}


def apart(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest relative difference of a matrix of gradients."""
    return max(((found[name] - each).norm() / each.norm()).item() for name, each in wanted.items())
