"""From files to a tokenizer and a model, and what can be said about a model's size."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ft.errors import DataError, FtError, PluginError, first_line
from ft.options import ModelOptions
from ft.quantization import numbers_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ft_hookspecs import ModelFiles, Plan, PluginInfo, Template

PADDING_TOKENS: Final = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""Names under which vocabularies keep a token that no text contains; tried in this order."""


# ---- tokenizer ----------------------------------------------------------------------------------------------------


def load_tokenizer(
    files: ModelFiles, plan: Plan, decide: Callable[[str], None] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token.

    Args:
        files: what a model plugin found.
        plan: gives the token of the hub and whether the model's own code may run.
        decide: told, in a line, which token pads when the tokenizer names none (normally ``run.decide``).

    Raises:
        DataError: its files are missing or broken, or it has no token that could pad.
    """
    from transformers import AutoTokenizer

    with _blamed("the tokenizer", files):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(files.path, **_access(files, plan))
    note = set_padding(tokenizer)
    if note and decide is not None:
        decide(note)
    return tokenizer


def set_padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """Choose a padding token from those the vocabulary has, so that no embedding is resized.

    Returns:
        what was chosen and why, or nothing when the tokenizer already has one.

    Raises:
        DataError: there is neither an unused special token nor an end of text.
    """
    if tokenizer.pad_token is not None:
        return ""
    unused = set(PADDING_TOKENS) & set(tokenizer.get_vocab()) - {tokenizer.eos_token, tokenizer.unk_token}
    token = next((name for name in PADDING_TOKENS if name in unused), tokenizer.eos_token)
    if token is None:
        raise DataError(
            "the tokenizer has neither a padding token nor an end-of-text token",
            where=str(tokenizer.name_or_path),
            remedy="set eos_token in its tokenizer_config.json",
        )
    tokenizer.pad_token = token
    return f"padding token is {token!r}, because the tokenizer defines none; padding is always masked"


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, template: Template | None, folder: Path) -> None:
    """Write the tokenizer with the chat template that the run trained on, for whoever serves the model."""
    kept = tokenizer.chat_template
    default = kept.get("default") if isinstance(kept, dict) else kept
    text = getattr(template, "text", None)
    try:
        if isinstance(text, str) and text != default:
            tokenizer.chat_template = text
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = kept


# ---- model --------------------------------------------------------------------------------------------------------


def merge_load_options(parts: Iterable[tuple[PluginInfo, Mapping[str, Any]]]) -> dict[str, Any]:
    """The keyword arguments of all plugins for ``from_pretrained``.

    Raises:
        PluginError: two plugins want different values for one argument; names both.
    """
    merged: dict[str, tuple[PluginInfo, Any]] = {}
    for info, options in parts:
        for name, value in options.items():
            first, wanted = merged.setdefault(name, (info, value))
            if wanted != value:
                raise PluginError(
                    f"plugins {first} and {info} load the model differently: {name}",
                    why=f"{first.name} wants {wanted!r}, {info.name} wants {value!r}",
                    remedy=f"leave {first.name} or {info.name} out",
                )
    return {name: value for name, (_, value) in merged.items()}


def load_model(
    files: ModelFiles, options: Mapping[str, Any], plan: Plan, decide: Callable[[str], None] | None = None
) -> PreTrainedModel:
    """The model with every weight taken from the files, ready for surgery.

    Args:
        files: what a model plugin found.
        options: of the plugins, merged; they win over the defaults here. Without a ``dtype`` among them, the weights
            are taken to stay frozen under an adapter.
        plan: gives the token of the hub and whether the model's own code may run.
        decide: told, in a line, which dtype was chosen and why (normally ``run.decide``).

    Raises:
        DataError: the files do not make a whole model.
    """
    from transformers import AutoModelForCausalLM

    from ft.precision import choose_dtype

    attention = "eager" if plan.of(ModelOptions).flash_attn == "disabled" else "sdpa"
    arguments = {"attn_implementation": attention, "use_safetensors": True, **_access(files, plan), **options}
    if "dtype" not in arguments:
        arguments["dtype"], reason = choose_dtype(plan, trains_everything=False)
        if decide is not None:
            decide(f"weights are loaded as {str(arguments['dtype']).removeprefix('torch.')}: {reason}")
    with _blamed("the model", files):
        model, report = AutoModelForCausalLM.from_pretrained(files.path, output_loading_info=True, **arguments)
    _check_loaded(files, report)
    return _savable(model)


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        DataError: some text would index past the end of the embeddings.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens and the model only {rows} embeddings",
            where=str(tokenizer.name_or_path),
            remedy="use the tokenizer that belongs to the model, or resize_vocab: true to learn the tokens",
        )


def _access(files: ModelFiles, plan: Plan) -> dict[str, Any]:
    """What transformers needs to find the files, and nothing about what they become."""
    model = plan.of(ModelOptions)
    known = {"gguf_file": files.gguf_file, "revision": files.revision, "token": model.hf_hub_token}
    trusted = model.trust_remote_code and files.own_code
    return {"trust_remote_code": trusted, **{key: value for key, value in known.items() if value}}


@contextmanager
def _blamed(what: str, files: ModelFiles) -> Iterator[None]:
    """Errors of transformers about the files, on one screen. It raises whatever the broken part happens to raise."""
    try:
        yield
    except (FtError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"{what} cannot be loaded",
            where=files.path,
            why=f"{type(error).__name__}: {first_line(error)}",
            remedy="check that the files are whole, and that this version of transformers knows the architecture",
        ) from error


def _check_loaded(files: ModelFiles, report: Mapping[str, Any]) -> None:
    """A weight that the files lack, or have in another shape, would be random; transformers only warns."""
    wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if wrong:
        raise DataError(
            f"{len(wrong)} weights of the model are not in its files, or have another shape",
            where=files.path,
            why=", ".join(wrong[:3]) + (" …" if len(wrong) > 3 else ""),
            remedy="fetch the model again; config.json and the weights must belong together",
        )


def _savable(model: PreTrainedModel) -> PreTrainedModel:
    """Sampling settings without ``do_sample`` make ``save_pretrained`` raise, hours later; they mean sampling."""
    settings = model.generation_config
    if settings is not None and not settings.do_sample:
        neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
        if any(getattr(settings, key, None) not in (None, value) for key, value in neutral.items()):
            settings.do_sample = True
    return model


# ---- size ---------------------------------------------------------------------------------------------------------


def trainable_report(model: nn.Module) -> str:
    """``2.4M of 136.9M parameters (1.8%)``: tied weights count once, packed ones as the numbers they stand for."""
    counted = [(numbers_in(parameter), parameter.requires_grad) for parameter in model.parameters()]
    total = sum(number for number, _ in counted)
    trained = sum(number for number, trains in counted if trains)
    return f"{_short(trained)} of {_short(total)} parameters ({trained / max(total, 1):.1%})"


def _short(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
