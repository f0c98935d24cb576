"""bitsandbytes: 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314) or 8 (LLM.int8(), 2022, arXiv:2208.07339)."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ft_hookspecs import Change, PluginOptions, Problem, hookimpl
from ft_plugins.quantizers import _common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1
ft_requires = {"bitsandbytes": "pip install 'ft-framework[bnb]'"}

WIDTHS: Final = (4, 8)
CHATTY: Final = "bitsandbytes.autograd._functions"
"""Logger that says at each layer of each step that LLM.int8() computes in float16, which is how it is defined."""


class BnbOptions(PluginOptions):
    """How bitsandbytes rounds; with 8 bits there is nothing to choose."""

    quantization_type: Literal["fp4", "nf4"] = Field(
        default="nf4", description="Data type of 4-bit weights: normal float (`nf4`) or float (`fp4`)."
    )
    double_quantization: bool = Field(
        default=True, description="Quantise the scales of 4-bit weights too, which saves 0.4 bits per weight."
    )
    quantization_device_map: Literal["auto"] | None = Field(
        default=None, description="`auto` would spread a quantised model over devices, which cannot train."
    )
    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format that 4-bit weights are computed in; `auto`: that of the others."
    )
    bnb_4bit_quant_storage: Literal["uint8", "float32", "bfloat16", "float16"] = Field(
        default="uint8", description="Number format that 4-bit weights are packed into; FSDP needs that of the others."
    )


@hookimpl
def ft_options() -> type[PluginOptions]:
    return BnbOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem]:
    yield from _common.problems(plan, "bnb", WIDTHS)
    options, asked = plan.of(BnbOptions), _common.asked_bits(plan)
    if asked and 4 not in asked.values():
        changed = [key for key, info in BnbOptions.model_fields.items() if getattr(options, key) != info.default]
        for key in changed:
            yield Problem(f"{key} has no effect with 8 bits", remedy="take it out, or use 4 bits", keys=(key, *asked))
    if plan.get("use_dora") and plan.get(_common.BITS) == 8:
        yield Problem(
            "use_dora with bnb and 8 bits",
            why="peft takes the norms of DoRA from scales that an 8-bit layer gives away in its first forward",
            remedy="set quantization_bit: 4, another quantization_method, or use_dora: false",
            keys=("use_dora", _common.BITS),
        )
    if options.quantization_device_map:
        yield Problem(
            "quantization_device_map: auto cannot train",
            why="layers on several devices would wait for each other, and the trainer places the model itself",
            remedy="take it out; several GPUs each take a whole copy with torchrun",
            keys=("quantization_device_map",),
        )
    yield from _sharding(plan, options)


def _sharding(plan: Plan, options: BnbOptions) -> Iterator[Problem]:
    yield from _common.whole_problems(plan, "bnb", "DeepSpeed cannot partition its packed weights", ("deepspeed",))
    if not plan.get("fsdp"):
        return
    if plan.get(_common.BITS) == 8:
        yield Problem(
            "bnb with 8 bits cannot be combined with fsdp",
            why="int8 weights and their scales cannot be sharded together",
            remedy="set quantization_bit: 4, or take fsdp out",
            keys=("fsdp", _common.BITS),
        )
    elif options.bnb_4bit_quant_storage == "uint8":
        yield Problem(
            "bnb with 4 bits packed into uint8 cannot be combined with fsdp",
            why="FSDP shards weights of one floating-point format together",
            remedy="set bnb_4bit_quant_storage to the format of the other weights (bfloat16), and dtype likewise",
            keys=("fsdp", "bnb_4bit_quant_storage", _common.BITS),
        )


@hookimpl
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    bits = _common.bits_of(plan)
    scales = 1 / 64 + 4 / (64 * 256) if plan.of(BnbOptions).double_quantization else 4 / 64
    return replace(estimate, matrix_bytes=0.5 + scales if bits == 4 else 1.0) if bits else estimate


@hookimpl
def ft_model_load_options(run: Run) -> Mapping[str, Any]:
    """Each weight is quantised by transformers as it is read."""
    logging.getLogger(CHATTY).addFilter(_says_something)
    from transformers import BitsAndBytesConfig

    from ft.precision import choose_dtype

    bits, options = _common.bits_of(run.plan), run.plan.of(BnbOptions)
    if not bits:
        return {}
    chosen = options.bnb_4bit_compute_dtype
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type=options.quantization_type,
        bnb_4bit_use_double_quant=options.double_quantization,
        bnb_4bit_compute_dtype=choose_dtype(run.plan, False)[0] if chosen == "auto" else chosen,
        bnb_4bit_quant_storage=options.bnb_4bit_quant_storage,
    )
    return {"quantization_config": config, "device_map": {"": _common.device_of(run.plan)}}


def _says_something(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in str(record.msg)


@hookimpl
def ft_quantize_model(run: Run, model: PreTrainedModel) -> Change:
    """The layers are quantised already; they are made fit for training."""
    from ft_plugins.quantizers._layers.bnb import make_trainable

    make_trainable(model)
    bits, options = _common.bits_of(run.plan), run.plan.of(BnbOptions)
    double = ", scales quantised too" if options.double_quantization else ""
    form = "LLM.int8()" if bits == 8 else f"{options.quantization_type}{double}"
    return _common.quantised(run.plan, model, f"bnb-{bits}", form, _common.unquantised_bytes(model))
