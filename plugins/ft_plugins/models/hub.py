"""Models of the Hugging Face hub: ``org/name`` or ``org/name@revision``. The last of the model plugins to be asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.errors import ConfigError, refusals
from ft.options import ModelOptions
from ft_hookspecs import ModelFiles, hookimpl
from ft_plugins.models._folders import check_folder, nearest_siblings, read_json
from ft_plugins.models._hub import MODEL_FILES, download

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import Plan, Problem

HUB_ID: Final = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
CODE_NAMING: Final = ("config.json", "tokenizer_config.json")
"""The files whose ``auto_map`` names code that comes with the model."""


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Code that is not pinned, told before anything is fetched where the hub's cache has the model."""
    options, keys = plan.of(ModelOptions), ("trust_remote_code", "model_revision")
    name = options.model_name_or_path
    folder = ft_locate_model(plan, name) if options.trust_remote_code and not Path(name).exists() else None
    return refusals(lambda: _runs_code(plan, name, folder), *keys) if folder else ()


@hookimpl(trylast=True)  # takes any name
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles:
    """Fetch the model into the hub's own cache, and pin its commit.

    Raises:
        ConfigError: the name is neither a path nor a hub id, gives two revisions, or brings code that is not pinned.
        EnvironmentProblem: it cannot be fetched; says what else was tried.
        DataError: the repository holds no safetensors.
    """
    options = plan.of(ModelOptions)
    match = HUB_ID.fullmatch(name)
    if not match:
        raise ConfigError(
            f"no plugin can find the model {name!r}",
            where=str(plan.sources.get("model_name_or_path", "")),
            remedy="give a folder, a .gguf file, pypi:package, or a hub id (org/name or org/name@revision)",
        )
    if match["revision"] and plan.is_set("model_revision") and match["revision"] != options.model_revision:
        raise ConfigError(
            f"two revisions of one model: {match['revision']!r} and {options.model_revision!r}",
            where=str(plan.sources["model_revision"]),
            remedy="give the revision once",
        )

    def fetch(*patterns: str) -> Path:
        return download(match["repo"], _revision(plan, match), options.hf_hub_token, patterns, elsewhere=_tried(name))

    own_code = options.trust_remote_code and _runs_code(plan, name, fetch(*CODE_NAMING))
    folder = fetch(*MODEL_FILES, *(("*.py",) if own_code else ()))
    check_folder(folder, name)
    description = f"{match['repo']} at {folder.name[:12]}"
    return ModelFiles(match["repo"], revision=folder.name, description=description, own_code=own_code)


@hookimpl
def ft_locate_model(plan: Plan, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    match = HUB_ID.fullmatch(name)
    found = match and try_to_load_from_cache(match["repo"], "config.json", revision=_revision(plan, match))
    return Path(found).parent if isinstance(found, str) else None


def _revision(plan: Plan, match: re.Match[str]) -> str:
    return match["revision"] or plan.of(ModelOptions).model_revision


def _runs_code(plan: Plan, name: str, folder: Path) -> bool:
    """Whether code of the model may run as ``trust_remote_code`` asks: from a pinned commit alone.

    Most files ask for it with models that bring none; those need no commit.

    Raises:
        ConfigError: the model brings code, which could be another one tomorrow.
    """
    match = HUB_ID.fullmatch(name)
    revision = _revision(plan, match) if match else ""
    if COMMIT.fullmatch(revision):
        return True
    naming = [file for file in CODE_NAMING if (folder / file).is_file() and read_json(folder / file).get("auto_map")]
    if naming:
        raise ConfigError(
            f"trust_remote_code would run whatever code stands at revision {revision!r} of {name} on the day",
            where=str(plan.sources.get("trust_remote_code", "")),
            why=f"{naming[0]} names code of its own (auto_map), and code of others runs only from a pinned commit",
            remedy=f"review its .py files and set model_revision: {folder.name}, or take trust_remote_code out: "
            "transformers' own class is then used, where it has one",
        )
    return False


def _tried(name: str) -> str:
    path = Path(name).absolute()
    near = nearest_siblings(path)
    return f"there is no folder or .gguf file {path}" + (f" (near it: {', '.join(near)})" if near else "")
