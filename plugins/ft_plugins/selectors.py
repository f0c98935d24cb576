"""The keys that choose plugins, and what is chosen when nothing is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from ft_hookspecs import PluginOptions, Selection
from ft_plugins.loggers._trackers import loggers, missing
from ft_plugins.models._headers import is_quantised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_ALWAYS: Final = {
    "accelerators": ("checkpointing",),
    "loggers": ("console", "jsonl"),
    "optimizers": ("optim",),
    "datasets": ("files", "templates", "alpaca", "sharegpt", "openai", "trl", "text"),
}
_MODEL_SOURCES: Final = ("gguf", "local", "hub")
"""Asked in this order; the hub takes any name, so it is last."""
_SWITCHES: Final = {
    "plot_loss": (True, "loggers", "plot_loss"),
    "use_swanlab": (True, "loggers", "swanlab"),
    "use_galore": (True, "optimizers", "galore"),
    "use_apollo": (True, "optimizers", "apollo"),
    "use_badam": (True, "optimizers", "badam"),
    "use_adam_mini": (True, "optimizers", "adam_mini"),
    "use_muon": (True, "optimizers", "muon"),
    "enable_liger_kernel": (True, "accelerators", "liger"),
    "use_unsloth": (True, "accelerators", "unsloth"),
    "flash_attn": ("fa2", "accelerators", "flash_attn"),
    "shift_attn": (True, "accelerators", "shift_attn"),
    "upcast_layernorm": (True, "accelerators", "upcast"),
    "upcast_lmhead_output": (True, "accelerators", "upcast"),
}
_COMPILING: Final = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
"""Keys any of which asks for compiling, as it does in transformers."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9_]+):(?!//)(?!\\).")
_DEFAULT_METHOD: Final = "bnb"
_BITS: Final = ("quantization_bit", "ref_model_quantization_bit", "reward_model_quantization_bit")
"""Keys that ask for the bits of a model: the one that trains, a reference, a reward model."""


class SelectingOptions(PluginOptions):
    """What to do to the model, and how; each key names a plugin."""

    stage: str = Field(
        default="sft", min_length=1, description="What to learn: the name of a stage, a module, or the path of a file."
    )
    finetuning_type: str = Field(
        default="lora", min_length=1, description="What part of the model trains: the name of an adapter plugin."
    )
    report_to: list[str] | None = Field(
        default=None,
        description="Loggers beside the console and metrics.jsonl: their names, none, or all that are installed.",
    )
    plot_loss: bool = Field(default=False, description="Plot the loss into loss.png at the end.")
    quantization_bit: int | None = Field(
        default=None, ge=1, le=8, description="Quantise the model's weights to this many bits while loading."
    )
    quantization_method: str = Field(
        default=_DEFAULT_METHOD, min_length=1, description="How to quantise: the name of a quantizer plugin."
    )
    enable_liger_kernel: bool = Field(default=False, description="Use Liger's fused Triton kernels.")
    use_unsloth: bool = Field(default=False, description="Use Unsloth's kernels.")
    shift_attn: bool = Field(
        default=False, description="Train on long samples with attention within shifted groups (S²-Attn of LongLoRA)."
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = Field(
        default=None, description="Scale rotary positions where `cutoff_len` is more than the model was trained on."
    )
    upcast_layernorm: bool = Field(default=False, description="Compute norms in float32.")
    upcast_lmhead_output: bool = Field(default=False, description="Give logits in float32.")
    torch_compile: bool = Field(default=False, description="Compile the layers of the model by torch.compile.")
    torch_compile_backend: str | None = Field(
        default=None, description="Backend of torch.compile, which this turns on. Unset: `inductor`."
    )
    torch_compile_mode: str | None = Field(
        default=None, description="Mode of torch.compile, which this turns on: `max-autotune-no-cudagraphs` …"
    )

    use_galore: bool = Field(default=False, description="Project gradients of weights to few dimensions, by GaLore.")
    use_apollo: bool = Field(default=False, description="Scale gradients by those of a random projection, by APOLLO.")
    use_badam: bool = Field(
        default=False, description="Train one layer, or a share of each weight, at a time, by BAdam."
    )
    use_adam_mini: bool = Field(default=False, description="Keep one second moment per head or neuron, by Adam-mini.")
    use_muon: bool = Field(default=False, description="Orthogonalise the steps of hidden layers, by Muon.")
    use_swanlab: bool = Field(default=False, description="Report to SwanLab, as `report_to: swanlab` does.")
    run_name: str | None = Field(
        default=None, description="Name of the run at a tracker of `report_to`. Unset: that of `output_dir`."
    )
    project: str | None = Field(
        default=None,
        description="Project of the run at a tracker of `report_to`. Unset: as the tracker's settings say.",
    )

    @field_validator("report_to")
    @classmethod
    def _some_or_none(cls, names: list[str] | None) -> list[str] | None:
        if names and len(names) > 1 and not {"none", "all"}.isdisjoint(names):
            raise ValueError("none and all cannot be combined with other names")
        return names


OPTIONS: Final = SelectingOptions


def select(values: Mapping[str, Any]) -> Iterator[Selection]:
    """The plugins that these values ask for, in the order in which they are asked."""
    yield _named("stages", "stage", values)
    yield _named("adapters", "finetuning_type", values)
    yield from _quantizers(values)
    for key, (value, kind, name) in _SWITCHES.items():
        if values.get(key) == value:
            yield Selection(f"{kind}:{name}", f"{key}: {str(value).lower()}", kind)
    if values.get("rope_scaling"):
        yield Selection("accelerators:rope_scaling", f"rope_scaling: {values['rope_scaling']}", "accelerators")
    if compiling := next((key for key in _COMPILING if values.get(key)), None):
        yield Selection("accelerators:compile", f"{compiling}: {str(values[compiling]).lower()}", "accelerators")
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


def _quantizers(values: Mapping[str, Any]) -> Iterator[Selection]:
    """The named method for any model that is to be quantised, and what knows the files that are quantised already."""
    method = values.get("quantization_method") or _DEFAULT_METHOD
    asked = [f"quantization_method: {method}"] if method != _DEFAULT_METHOD else []
    asked += [f"{key}: {values[key]}" for key in _BITS if values.get(key) is not None]
    if asked:
        yield Selection(f"quantizers:{method}", asked[0], "quantizers")
    if is_quantised(str(values.get("model_name_or_path") or ""), values.get("model_revision")):
        yield Selection("quantizers:prequantized", "model_name_or_path: its files are quantised", "quantizers")


def _loggers(names: Iterable[str]) -> Iterator[Selection]:
    """The named loggers; for ``all`` every one that has no key of its own and whose packages are installed."""
    every = "all" in names
    if every:
        names = [entry.name for entry in loggers() if entry.name not in missing()]
    for name in names:
        if name not in ("none", *_ALWAYS["loggers"]):
            yield Selection(f"loggers:{name}", f"report_to: {name}", "loggers", default=every)


def _model_sources(name: str) -> Iterator[Selection]:
    """``pypi:name`` asks the source called pypi alone; any other name is tried by each source in turn."""
    if scheme := _SCHEME.match(name):
        yield Selection(f"models:{scheme[1]}", f"model_name_or_path: {scheme[1]}:…", "models")
        return
    for source in _MODEL_SOURCES:
        yield Selection(f"models:{source}", "model_name_or_path", "models", default=True)
