"""Rotary positions for samples longer than the model was trained on; the saved configuration says the same.

``linear`` divides positions (Chen et al. 2023, arXiv:2306.15595), ``dynamic`` raises the base with the
sequence's length, ``yarn`` divides low frequencies alone (Peng et al. 2023, arXiv:2309.00071), ``llama3``
likewise, as Llama 3.1 does.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError
from ft.options import DataOptions, ModelOptions
from ft_hookspecs import Change, StashKey, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from ft_hookspecs import Run

ft_api_version = 1

FURTHER: Final[Mapping[str, Mapping[str, Any]]] = {"llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}}
"""What a kind needs besides its factor; the values are those of Llama 3.1."""
WITH_ORIGINAL: Final = ("yarn", "llama3")
"""Kinds that say beside the scaled length which was the original one."""
DONE: Final[StashKey[str]] = StashKey("rope_scaling")


@hookimpl
def ft_model_load_options(run: Run) -> Mapping[str, Any]:
    """The settings of the scaling, or nothing where ``cutoff_len`` needs none.

    Raises:
        ConfigError: the model has no rotary positions, or scales them already.
    """
    config = _config(run)
    kind, length = str(run.plan.get("rope_scaling")), getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None)
    if not rope or not length or "rope_theta" not in rope:
        raise _refused(run, "it has none, or one set of them for each kind of layer")
    factor = ceil(run.plan.of(DataOptions).cutoff_len / length)
    if factor <= 1:
        run.stash[DONE] = f"positions stay as they are: cutoff_len is within the model's {length:,}"
        return {}
    if rope.get("rope_type", "default") != "default":
        raise _refused(run, f"they are scaled already: {rope['rope_type']} to {length:,} positions")
    scaled = {**rope, "rope_type": kind, "factor": float(factor), **FURTHER.get(kind, {})}
    if kind in WITH_ORIGINAL:
        scaled["original_max_position_embeddings"] = length
    run.stash[DONE] = f"{kind}, factor {factor}: {length:,} → {factor * length:,} positions"
    # The dynamic kind grows from the original length, which it knows by this name.
    return {"rope_parameters": scaled, "max_position_embeddings": length * (1 if kind == "dynamic" else factor)}


@hookimpl
def ft_accelerate_model(run: Run, model: nn.Module) -> Change:
    """Say what was loaded; the tokenizer that is saved allows the new length."""
    config: Any = model.config
    said = run.stash.get(DONE, "")
    if "factor" in said:
        assert run.tokenizer is not None
        run.tokenizer.model_max_length = max(run.tokenizer.model_max_length, run.plan.of(DataOptions).cutoff_len)
        if run.plan.get("finetuning_type") not in ("full", "freeze"):
            run.decide(f"rope_scaling: an adapter does not hold it; load its base with {_words(config)}")
    return Change(model, said, details={"rope_parameters": dict(config.rope_parameters)})


def _config(run: Run) -> Any:
    from transformers import AutoConfig

    assert run.model_files is not None
    options = run.plan.of(ModelOptions)
    return AutoConfig.from_pretrained(
        run.model_files.path,
        revision=run.model_files.revision,
        token=options.hf_hub_token,
        trust_remote_code=options.trust_remote_code,
    ).get_text_config()


def _words(config: Any) -> str:
    return f"rope_parameters={config.rope_parameters} and max_position_embeddings={config.max_position_embeddings}"


def _refused(run: Run, why: str) -> ConfigError:
    return ConfigError(
        "rope_scaling cannot scale the rotary positions of this model",
        where=str(run.plan.sources.get("rope_scaling", "")),
        why=why,
        remedy="take rope_scaling out, and keep cutoff_len within what the model was trained on",
    )
