"""Whether a model can take the packed step: what is known before the first batch. A self-check proves it afterwards."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from transformers import PreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "output_router_logits": (None, False),
    "is_encoder_decoder": (None, False),
    "use_bidirectional_attention": (None, False),
    "is_causal": (None, True),
    "alibi": (None, False),
}
"""Settings that change logits, loss or attention in ways the packed step does not compute, with the values at which
they change nothing."""

CAUSAL_LAYERS: Final = {"full_attention", "sliding_attention"}


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper."""
    base = getattr(model, "get_base_model", None)
    inner: nn.Module = base() if callable(base) else model
    return inner


def base_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the weights that came with the model: of the frozen ones, where some are frozen."""
    floating = [parameter for parameter in unwrap(model).parameters() if parameter.is_floating_point()]
    return next((parameter for parameter in floating if not parameter.requires_grad), floating[0]).dtype


def positions(model: nn.Module) -> int | None:
    """The tokens of a text that a model was made for, as its configuration has it."""
    config: Any = getattr(unwrap(model), "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "max_position_embeddings", None)


def obstacles(model: nn.Module) -> Iterator[str]:
    """Why this model cannot take the packed step; nothing when it can, as far as its class and settings tell."""
    base = unwrap(model)
    if not isinstance(base, PreTrainedModel):
        yield f"{type(base).__name__} is not a transformers model"
        return
    name = type(base).__name__
    if not (base._supports_attention_backend and base._supports_sdpa and base._can_set_attn_implementation()):
        yield f"the attention of {name} does not go through transformers' interface as plain SDPA"
    elif base.config._attn_implementation == "eager":
        yield "eager attention was asked for"
    if "logits_to_keep" not in inspect.signature(base.forward).parameters:
        yield f"{name} cannot restrict its logits to some positions"
    if base.get_output_embeddings() is None:
        yield f"{name} has no language-model head"
    if (
        getattr(base.config, "vision_config", None) is not None
        or getattr(base.config, "audio_config", None) is not None
    ):
        yield f"{name} has more inputs than text"
    if any(getattr(config, "is_prompt_learning", False) for config in getattr(model, "peft_config", {}).values()):
        yield "a learned prompt is put before each sequence"
    yield from _settings(base.config.get_text_config())


def _settings(config: Any) -> Iterator[str]:
    for key, neutral in NEUTRAL.items():
        value = getattr(config, key, None)
        if value not in neutral:
            yield f"{key} is {value}"
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - CAUSAL_LAYERS):
        yield f"a layer is of type {kind}"
