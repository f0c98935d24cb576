"""The keys that choose plugins, and what is chosen when nothing is said."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, field_validator, model_validator

from ft_hookspecs import PluginOptions, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

_ALWAYS: Final = {
    "loggers": ("console", "jsonl"),
    "datasets": ("files", "templates", "alpaca", "sharegpt", "openai", "trl", "text"),
}
_MODEL_SOURCES: Final = ("gguf", "local", "hub")
"""Asked in this order; the hub takes any name, so it is last."""
_SWITCHES: Final = {
    "plot_loss": (True, "loggers", "plot_loss"),
    "enable_liger_kernel": (True, "accelerators", "liger"),
    "use_unsloth": (True, "accelerators", "unsloth"),
    "flash_attn": ("fa2", "accelerators", "flash_attn"),
}
_SCHEME: Final = re.compile(r"([a-z][a-z0-9_]+):(?!//)(?!\\).")
_DEFAULT_METHOD: Final = "bnb"


class SelectingOptions(PluginOptions):
    """What to do to the model, and how; each key names a plugin."""

    stage: str = Field(
        default="sft", min_length=1, description="What to learn: the name of a stage, a module, or the path of a file."
    )
    finetuning_type: str = Field(
        default="lora", min_length=1, description="What part of the model trains: the name of an adapter plugin."
    )
    report_to: list[str] | None = Field(
        default=None, description="Loggers beside the console and metrics.jsonl: their names, none, or all."
    )
    plot_loss: bool = Field(default=False, description="Draw the loss into loss.png at the end.")
    quantization_bit: int | None = Field(
        default=None, ge=1, le=8, description="Quantise the model's weights to this many bits while loading."
    )
    quantization_method: str = Field(
        default=_DEFAULT_METHOD, min_length=1, description="How to quantise: the name of a quantizer plugin."
    )
    enable_liger_kernel: bool = Field(default=False, description="Use Liger's fused Triton kernels.")
    use_unsloth: bool = Field(default=False, description="Use Unsloth's kernels.")

    @field_validator("report_to")
    @classmethod
    def _some_or_none(cls, names: list[str] | None) -> list[str] | None:
        if names and len(names) > 1 and not {"none", "all"}.isdisjoint(names):
            raise ValueError("none and all stand alone")
        return names

    @model_validator(mode="after")
    def _method_needs_bits(self) -> Self:
        if self.quantization_bit is None and self.quantization_method != _DEFAULT_METHOD:
            raise ValueError(
                f"quantization_method: {self.quantization_method} does nothing without quantization_bit; "
                "write how many bits, or take it out"
            )
        return self


OPTIONS: Final = SelectingOptions


def select(values: Mapping[str, Any]) -> Iterator[Selection]:
    """The plugins that these values ask for, in the order in which they are asked."""
    yield _named("stages", "stage", values)
    yield _named("adapters", "finetuning_type", values)
    if values.get("quantization_bit") is not None:
        method = values.get("quantization_method", _DEFAULT_METHOD)
        yield Selection(f"quantizers:{method}", f"quantization_bit: {values['quantization_bit']}", "quantizers")
    for key, (value, kind, name) in _SWITCHES.items():
        if values.get(key) == value:
            yield Selection(f"{kind}:{name}", f"{key}: {str(value).lower()}", kind)
    yield from _loggers(values.get("report_to") or ())
    yield from _model_sources(values.get("model_name_or_path") or "")
    for kind, names in _ALWAYS.items():
        for name in names:
            yield Selection(f"{kind}:{name}", "always", kind, default=True)


def _named(kind: str, key: str, values: Mapping[str, Any]) -> Selection:
    """A name of the kind; a path or a dotted module stays as it is."""
    name = str(values.get(key) or SelectingOptions.model_fields[key].default)
    is_place = "/" in name or "\\" in name or "." in name
    return Selection(name if is_place else f"{kind}:{name}", f"{key}: {name}", kind)


def _loggers(names: Iterable[str]) -> Iterator[Selection]:
    """The named loggers; for ``all`` every installed one that has no key of its own."""
    if "all" in names:
        names = sorted({entry.name for entry in entry_points(group="ft.loggers")} - _SWITCHES.keys())
    for name in names:
        if name not in ("none", *_ALWAYS["loggers"]):
            yield Selection(f"loggers:{name}", f"report_to: {name}", "loggers")


def _model_sources(name: str) -> Iterator[Selection]:
    """``pypi:name`` asks the source called pypi alone; any other name is tried by each source in turn."""
    if scheme := _SCHEME.match(name):
        yield Selection(f"models:{scheme[1]}", f"model_name_or_path: {scheme[1]}:…", "models")
        return
    for source in _MODEL_SOURCES:
        yield Selection(f"models:{source}", "model_name_or_path", "models", default=True)
