"""Models in a folder of this machine, in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ft.errors import ConfigError
from ft_hookspecs import ModelFiles, hookimpl
from ft_plugins.models._folders import check_folder, nearest_siblings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan


@hookimpl(trylast=True)  # a path that does not exist is an error
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles | None:
    """The folder called ``name``; folders with a GGUF file and names that are no path are left to others.

    Raises:
        ConfigError: a path that does not exist, or a folder that holds an adapter.
        DataError: a folder that holds no whole model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and any(path.glob("*.gguf")):
            return None
        check_folder(path)
        return ModelFiles(str(path.resolve()), description=f"the folder {path}")
    if path.exists() or not is_path(name):
        return None
    near = nearest_siblings(path.absolute())
    raise ConfigError(
        f"the model {name!r} does not exist",
        where=str(plan.sources.get("model_name_or_path", "")),
        why=f"there is no folder or file {path.absolute()}",
        remedy=f"did you mean {' or '.join(near)}?" if near else "give an existing folder, or a hub id (org/name)",
    )


@hookimpl
def ft_locate_model(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if (path / "config.json").is_file() else None


@hookimpl(trylast=True)  # takes any names
def ft_add_adapters(plan: Plan, model: PreTrainedModel, names: list[str]) -> PreTrainedModel | nn.Module:
    """Adapters in folders or of the hub; all but the last are merged, as in a model that goes on training."""
    from ft_plugins import _saved_adapters

    *merged, last = (_saved_adapters.folder_of(name, plan, "") for name in names)
    for folder in (*merged, last):
        _saved_adapters.fit_vocabulary(model, folder)
    for folder in merged:
        model = _saved_adapters.merge(model, folder)
    return _saved_adapters.put_on(model, last)


def is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: a hub id has at most one slash and does not begin with one."""
    return name.startswith((".", "/", "~")) or name.endswith((".gguf", "/")) or name.count("/") > 1
