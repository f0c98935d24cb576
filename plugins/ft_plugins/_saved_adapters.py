"""Adapters that a run starts from: found, checked, merged into the model or taken up again."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError, DataError, FtError, first_line
from ft.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ft.options import ModelOptions, listed
from ft_plugins.models._folders import pickled_weights, read_json
from ft_plugins.models.local import is_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan

KINDS: Final = ("LORA", "OFT")
"""Types of adapter that can be merged or put on a model."""
RESIDUAL: Final = "residual_base"
"""Folder beside a PiSSA adapter that was not converted: the base without what the adapter has taken out of it."""


def names(plan: Plan) -> list[str]:
    """The adapters to start from, in order."""
    return listed(plan.of(ModelOptions).adapter_name_or_path or "")


def split(plan: Plan) -> tuple[list[str], str | None]:
    """The adapters to merge, and the one that goes on training."""
    given = names(plan)
    if plan.get("create_new_adapter") or not given:
        return given, None
    return given[:-1], given[-1]


def is_local(name: str) -> bool:
    """Whether the name means a folder of this machine; anything else is a hub id."""
    return Path(name).expanduser().exists() or is_path(name)


def folder_of(name: str, plan: Plan, key: str = "adapter_name_or_path") -> Path:
    """The folder of an adapter that ``key`` names, fetched from the hub if need be.

    Raises:
        ConfigError: the path does not exist.
        DataError: it holds no adapter as safetensors.
        EnvironmentProblem: the hub has no such adapter or cannot be reached.
    """
    if is_local(name):
        folder = Path(name).expanduser()
    else:
        from ft_plugins.models._hub import download

        repo, _, revision = name.partition("@")
        folder = download(repo, revision or "main", plan.of(ModelOptions).hf_hub_token, ("*.json", "*.safetensors"))
    check_adapter(folder, str(plan.sources.get(key, "")))
    return folder


def check_adapter(folder: Path, where: str, kinds: Collection[str] = KINDS) -> dict[str, Any]:
    """Check that ``folder`` holds an adapter of one of these kinds as safetensors, and return its configuration.

    Raises:
        ConfigError: the folder does not exist.
        DataError: it holds something else.
    """
    if not folder.is_dir():
        raise ConfigError(f"the adapter {str(folder)!r} does not exist", where=where, remedy="give an adapter's folder")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise DataError(f"the folder holds no adapter: {ADAPTER_CONFIG} is missing", where=str(folder))
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") not in kinds:
        raise DataError(
            f"the adapter is of type {config.get('peft_type')}, not {' or '.join(kinds)}",
            where=str(folder),
            remedy="give the finetuning_type that made it",
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise pickled_weights(str(folder), "adapter_model.bin")
        raise DataError(f"the adapter's weights are missing: {ADAPTER_WEIGHTS}", where=str(folder))
    return config


def check_base(folder: Path, base: str) -> None:
    """Refuse an unconverted PiSSA adapter on any base but its own: on another its principal part would count twice.

    Raises:
        DataError: ``base``, a folder or a hub id, is not the adapter's.
    """
    own = folder / RESIDUAL
    stated = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    if (own.is_dir() or Path(stated).name == RESIDUAL) and Path(base).resolve() not in (own.resolve(), Path(stated)):
        raise DataError(
            "this PiSSA adapter does not belong on the original model",
            where=str(folder),
            why="without pissa_convert an adapter is saved with a base of its own, from which its start was taken out",
            remedy=f"model_name_or_path: {own if own.is_dir() else stated}, or train again with pissa_convert: true",
        )


def fit_vocabulary(model: PreTrainedModel, folder: Path) -> None:
    """Give a model as many embeddings as an adapter with added tokens holds."""
    from safetensors import safe_open

    rows = model.get_input_embeddings().weight.shape[0]
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        ends = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
        held = [file.get_slice(name).get_shape()[0] for name in file.keys() if name.endswith(ends)]  # noqa: SIM118 - no mapping
    if held and max(held) > rows:
        model.resize_token_embeddings(max(held), mean_resizing=False)


def merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter's product to the weights for good.

    Raises:
        DataError: it was made for another model, or holds weights that are not numbers.
    """
    with _blamed(folder):
        merged: PreTrainedModel = _load(model, folder, trainable=False).merge_and_unload(safe_merge=True)
    return merged


def take_up(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with an adapter that goes on training.

    Raises:
        DataError: it was made for another model.
    """
    with _blamed(folder):
        return _load(model, folder, trainable=True)


def put_on(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with an adapter that stays as it is.

    Raises:
        DataError: it was made for another model.
    """
    with _blamed(folder):
        return _load(model, folder, trainable=False)


def _load(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors import safe_open

    check_base(folder, model.name_or_path)
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, low_cpu_mem_usage=False)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        held = set(file.keys())
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if wrong := wanted ^ held:  # peft itself only warns
        raise DataError(
            f"{len(wrong)} weights of the adapter do not fit the model: {min(wrong)}",
            where=str(folder),
            remedy="start from the model that the adapter was made for",
        )
    return adapted


@contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    try:
        yield
    except FtError:
        raise
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise DataError(
            "the adapter does not fit the model",
            where=str(folder),
            why=first_line(error),
            remedy="start from the model that the adapter was made for (see its adapter_config.json), "
            "with the add_tokens of its run",
        ) from error
