"""Tokens that a run adds to the vocabulary: the tokenizer learns them, and each gets an embedding.

The embeddings are as many as the tokens, not rounded up: ``AutoPeftModelForCausalLM`` then loads what was saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from ft.errors import ConfigError, refusals
from ft_hookspecs import PluginOptions, Problem, StashKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ft_hookspecs import Plan, Run

ADDED: Final = StashKey["Mapping[str, str]"]("tokens that the run adds to the vocabulary, with their descriptions")


class VocabularyOptions(PluginOptions):
    """Which tokens are added, and what their embeddings begin as."""

    resize_vocab: bool = Field(
        default=False, description="Give each token of the tokenizer an embedding; those that are added always get one."
    )
    add_tokens: list[str] | None = Field(default=None, description="Texts that become tokens of their own.")
    add_special_tokens: list[str] | None = Field(
        default=None, description="Special tokens to add; decoding leaves them out, as it does `<s>`."
    )
    new_special_tokens_config: str | None = Field(
        default=None,
        description="A YAML file of special tokens to add, each with a description: `<go>: a plan begins`.",
    )
    init_special_tokens: Literal["noise_init", "desc_init", "desc_init_w_noise"] = Field(
        default="noise_init",
        description="How new embeddings start: as the mean of all with noise, or of the tokens of their description.",
    )


def vocabulary_problems(plan: Plan) -> Iterator[Problem]:
    """Keys that would do nothing, or do it twice."""
    described = plan.get("new_special_tokens_config")
    if described and plan.get("add_special_tokens"):
        yield Problem(
            "add_special_tokens and new_special_tokens_config both name the special tokens to add",
            remedy="name them all in the file, or take it out",
            keys=("add_special_tokens", "new_special_tokens_config"),
        )
    if not described and plan.get("init_special_tokens", "noise_init") != "noise_init":
        yield Problem(
            f"init_special_tokens: {plan.get('init_special_tokens')} needs descriptions of the tokens",
            remedy="give new_special_tokens_config, or take init_special_tokens out",
            keys=("init_special_tokens",),
        )
    yield from refusals(lambda: _described(plan), "new_special_tokens_config")
    if twice := sorted(set(plan.get("add_tokens") or ()) & set(plan.get("add_special_tokens") or ())):
        yield Problem(
            f"add_tokens and add_special_tokens both name {', '.join(twice)}",
            why="decoding leaves special tokens out, and the others not",
            remedy="name each in one of them",
            keys=("add_special_tokens", "add_tokens"),
        )


def extend_tokenizer(run: Run) -> None:
    """Add the tokens that the plan names and the tokenizer lacks; those that it has are said.

    Raises:
        ConfigError: the file of ``new_special_tokens_config`` is not a mapping of texts.
    """
    tokenizer = run.tokenizer
    assert tokenizer is not None
    plain = dict.fromkeys(run.plan.get("add_tokens") or (), "")
    special = dict.fromkeys(run.plan.get("add_special_tokens") or (), "") | _described(run.plan)
    vocabulary = tokenizer.get_vocab()
    known = [name for name in (*plain, *special) if name in vocabulary]
    if known:
        run.decide(f"already in the vocabulary: {', '.join(known)}")
    added = {name: text for name, text in (plain | special).items() if name not in known}
    tokenizer.add_tokens([name for name in added if name in plain])
    tokenizer.add_tokens([name for name in added if name not in plain], special_tokens=True)
    if added:
        run.stash[ADDED] = added


def _described(plan: Plan) -> dict[str, str]:
    path = plan.get("new_special_tokens_config")
    if not path:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe").load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise _wrong_file(plan, str(error)) from error
    if not (isinstance(found, dict) and all(isinstance(text, str) for pair in found.items() for text in pair)):
        raise _wrong_file(plan, "it is not a mapping of tokens to descriptions")
    return found


def _wrong_file(plan: Plan, why: str) -> ConfigError:
    return ConfigError(
        f"the tokens of {plan.get('new_special_tokens_config')!r} cannot be read",
        where=str(plan.sources.get("new_special_tokens_config", "")),
        why=why,
        remedy="write one line per token: '<name>: what it means'",
    )


def fit_embeddings(run: Run) -> None:
    """Give each token an embedding where that is asked for, and let the added ones begin as the plan says.

    Raises:
        ConfigError: the embeddings are quantised.
    """
    model: Any = run.model
    added: Mapping[str, str] = run.stash.get(ADDED, {})
    if not (added or run.plan.get("resize_vocab")):
        return
    assert run.tokenizer is not None
    rows, tokens = model.get_input_embeddings().weight.shape[0], len(run.tokenizer)
    new = sorted({*range(rows, tokens), *(run.tokenizer.convert_tokens_to_ids(name) for name in added)})
    if not new:
        run.decide(f"resize_vocab changes nothing: the model has {rows} embeddings for {tokens} tokens")
        return
    ends = [model.get_submodule(name).weight for name in embedding_names(model)]
    if not all(weight.is_floating_point() for weight in ends):
        raise ConfigError(
            "a quantised vocabulary cannot grow",
            where=str(run.plan.sources.get("model_name_or_path", "")),
            why="the model's files hold embeddings or a head that are quantised, which cannot train",
            remedy="name the model's unquantised files, or leave the new tokens out",
        )
    if tokens > rows:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    run.stash[ADDED] = {name: added.get(name, "") for name in run.tokenizer.convert_ids_to_tokens(new)}
    _begin(model, run.tokenizer, run.stash[ADDED], new, run.plan)
    run.decide(f"vocabulary: {len(new)} new tokens, {rows} → {max(rows, tokens)} embeddings; all of them train")


def _begin(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, added: Mapping[str, str], new: Sequence[int], plan: Plan
) -> None:
    """Fill the new rows of both ends, the same for the same seed.

    The mean of the old rows, or of the tokens of the description, with noise of standard deviation 1/√width.
    """
    import torch

    noisy = plan.get("init_special_tokens") != "desc_init"
    generator = torch.Generator().manual_seed(plan.get("seed", 42))
    old = sorted(set(range(max(new) + 1)) - set(new))
    for name in embedding_names(model):
        weight: torch.Tensor = model.get_submodule(name).weight.data
        average = weight[old].float().mean(0)
        for row, text in zip(new, added.values(), strict=True):
            ids = [token for token in tokenizer.encode(text, add_special_tokens=False) if token not in new]
            begin = weight[ids].float().mean(0) if ids else average
            noise = torch.randn(len(begin), generator=generator).to(begin.device) / len(begin) ** 0.5
            weight[row] = (begin + noise * (noisy or not ids)).to(weight.dtype)


def embedding_names(model: PreTrainedModel) -> list[str]:
    """The modules that hold a row for each token: the embeddings, and the head unless it is the same weight."""
    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    if len(ends) == 2 and ends[0].weight is ends[1].weight:
        ends = ends[:1]
    return [name for name, module in model.named_modules() if any(module is end for end in ends)]


def new_embeddings(run: Run, model: PreTrainedModel) -> list[str]:
    """The modules that must train because the run has added tokens; none when it has not."""
    return embedding_names(model) if run.stash.get(ADDED, {}) else []
