"""What the keys of a reward cannot be, found while planning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ft.devices import sharding_problems
from ft.files import ADAPTER_CONFIG, MODEL_CONFIG, RECORD, VALUE_HEAD, json_object
from ft_hookspecs import Problem
from ft_plugins import _saved_adapters
from ft_plugins.models.local import is_path
from ft_plugins.stages._rewards.api import shown_url
from ft_plugins.stages._rewards.options import RewardOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import Plan

ONLY_FOR = {"reward_model_adapters": "full", "reward_model_quantization_bit": "full", "reward_model_token": "api"}
"""Keys that act with one ``reward_model_type`` alone."""


def reward_problems(plan: Plan) -> Iterator[Problem]:
    """What cannot be; whether anything gives a reward at all is the core's question, who knows the plugins' hooks."""
    options = plan.of(RewardOptions)
    if options.reward_model is None:
        yield from _without_model(plan)
        return
    kind = options.reward_model_type
    for key, wanted in ONLY_FOR.items():
        if plan.get(key) is not None and kind != wanted:
            yield Problem(
                f"{key} has no effect with reward_model_type: {kind}",
                why=f"only `{wanted}` uses it",
                remedy=f"take it out, or set reward_model_type: {wanted}",
                keys=(key, "reward_model_type"),
            )
    if options.reward_model_quantization_bit and "," in (options.reward_model_adapters or ""):
        yield Problem(
            "reward_model_quantization_bit with several reward_model_adapters",
            why="all but the last would be merged into quantised weights and rounded again",
            remedy="merge them into reward_model first",
            keys=("reward_model_quantization_bit", "reward_model_adapters"),
        )
    yield from _api(options.reward_model, options.reward_model_token) if kind == "api" else _files(options)
    if kind == "lora":
        yield from _second_adapter(plan)
        folder = Path(options.reward_model).expanduser()
        yield from base_problems(plan, folder) if folder.is_dir() else ()


def _without_model(plan: Plan) -> Iterator[Problem]:
    """Only keys that the user wrote are at fault."""
    for key, field in RewardOptions.model_fields.items():
        if plan.is_set(key) and plan.get(key) != field.default:
            yield Problem(
                f"{key} without reward_model", why="it has no effect without it", remedy="set reward_model", keys=(key,)
            )


def _api(url: str, token: str | None) -> Iterator[Problem]:
    if not _is_url(url):
        yield Problem(
            f"reward_model: {shown_url(url)!r} is not an http or https URL",
            why="reward_model_type: api posts the answers to a server",
            remedy="write the URL (special characters as %20 …), or set reward_model_type to lora or full for a folder",
            keys=("reward_model", "reward_model_type"),
        )
    elif (parts := urlsplit(url)).username or parts.password:
        yield Problem(
            "reward_model holds a user or password",
            why="it would be shown wherever the URL is",
            remedy="set the environment variable FT_REWARD_MODEL_TOKEN; it is sent as bearer token",
            keys=("reward_model",),
        )
    if token is not None and not _is_word(token):
        yield Problem(
            "reward_model_token cannot be sent",
            why="a header of HTTP holds no spaces, line breaks and letters beyond ASCII",
            remedy="give the token alone, without the line break at the end of its file",
            keys=("reward_model_token",),
        )


def _is_url(text: str) -> bool:
    """Whether a request can be sent there as it is written."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and _is_word(text)
    except ValueError:  # half of a bracketed address, or a port that is no number
        return False


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _files(options: RewardOptions) -> Iterator[Problem]:
    """A folder of this machine is looked into; a hub id is fetched and looked into when the run begins."""
    name = options.reward_model or ""
    if "://" in name:
        yield Problem(
            f"reward_model is a URL, and reward_model_type is {options.reward_model_type}",
            remedy="set reward_model_type: api, or give the folder of a reward model",
            keys=("reward_model_type", "reward_model"),
        )
        return
    key = "reward_model"
    if options.reward_model_adapters:
        key, name = "reward_model_adapters", options.reward_model_adapters.split(",")[-1].strip()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if is_path(name):
            yield Problem(f"{key}: {name!r} does not exist", remedy="give the folder that stage: rm saved", keys=(key,))
        return
    is_adapter, is_model = (folder / ADAPTER_CONFIG).is_file(), (folder / MODEL_CONFIG).is_file()
    if key == "reward_model" and options.reward_model_type == "full" and is_adapter and not is_model:
        yield Problem(
            f"reward_model: the folder {name!r} holds an adapter, and reward_model_type is full",
            why="an adapter is not a whole model",
            remedy=f"set reward_model_type: lora, or reward_model to its base and reward_model_adapters: {name}",
            keys=("reward_model_type", "reward_model"),
        )
    wanted = [VALUE_HEAD] if options.reward_model_type == "full" else [ADAPTER_CONFIG, VALUE_HEAD]
    for missing in [file for file in wanted if not (folder / file).is_file()]:
        yield Problem(
            f"{key}: the folder {name!r} holds no reward model: {missing} is missing",
            why="a reward model is an adapter with a value head"
            if missing == ADAPTER_CONFIG
            else "it has no value head",
            remedy="give the folder that stage: rm saved"
            + (", or set reward_model_type: full for a whole model" if missing == ADAPTER_CONFIG else ""),
            keys=(key,),
            exit_code=4,
        )


def base_problems(plan: Plan, folder: Path) -> Iterator[Problem]:
    """The weights below both adapters must be the same: merged adapters are part of them."""
    here, there = _saved_adapters.split(plan)[0], _merged_below(folder)
    if [*map(_place, here)] != [*map(_place, there)]:
        yield Problem(
            "the reward adapter was trained on another base than the policy's",
            why=f"merged into the base are {_named(here)} for the policy and {_named(there)} for the reward model",
            remedy="set reward_model_type: full, with reward_model and reward_model_adapters",
            keys=("reward_model", "adapter_name_or_path"),
        )


def _merged_below(folder: Path) -> list[str]:
    """The adapters in the base of a saved one, as the record of its run has them; none where there is no record."""
    changes = json_object(folder / RECORD).get("changes", ())
    return [name for change in changes for name in change.get("merged_adapters", ())]


def _place(adapter: str) -> str:
    """One name for a folder, however it is written."""
    return str(Path(adapter).expanduser().resolve()) if _saved_adapters.is_local(adapter) else adapter


def _named(adapters: list[str]) -> str:
    return ", ".join(adapters) or "no adapters"


def _second_adapter(plan: Plan) -> Iterator[Problem]:
    """The policy must be a frozen base with an adapter, and whole on each process."""
    tuning = plan.plugin("adapters")
    if tuning is not None and tuning.name != "lora":
        yield Problem(
            f"reward_model_type: lora with finetuning_type: {tuning.name}",
            why="the reward adapter needs the frozen base that it was trained on, and this policy changes it",
            remedy="set reward_model_type: full (the reward model is then loaded beside the policy)",
            keys=("reward_model_type", "finetuning_type"),
        )
    why, remedy = "layers that are sharded over processes cannot be exchanged", "or set reward_model_type: full or api"
    yield from sharding_problems(plan, "reward_model_type: lora", why, remedy, ("reward_model_type",))
