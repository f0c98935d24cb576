"""Models of the Hugging Face hub: ``org/name`` or ``org/name@revision``. The last of the model plugins to be asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.errors import ConfigError
from ft.options import ModelOptions
from ft_hookspecs import ModelFiles, Problem, hookimpl
from ft_plugins.models._folders import check_folder, nearest_siblings
from ft_plugins.models._hub import MODEL_FILES, download

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import Plan

HUB_ID: Final = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@hookimpl
def ft_check(plan: Plan) -> Iterable[Problem]:
    """Code of a hub model runs only if it is asked for and cannot change afterwards."""
    options = plan.of(ModelOptions)
    match = HUB_ID.fullmatch(options.model_name_or_path)
    if options.trust_remote_code and match and not Path(options.model_name_or_path).exists():
        revision = match["revision"] or options.model_revision
        if not COMMIT.fullmatch(revision):
            yield Problem(
                f"trust_remote_code runs whatever stands at revision {revision!r} on the day",
                why="code of others runs only from a pinned commit",
                remedy="take trust_remote_code out (most models need no code of their own), or set model_revision to "
                "the 40 digits of the commit that you have reviewed",
                keys=("trust_remote_code", "model_revision"),
            )


@hookimpl(trylast=True)  # takes any name
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles:
    """Fetch the model into the hub's own cache, and pin its commit.

    Raises:
        ConfigError: the name is neither a path nor a hub id, or gives two revisions.
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
    patterns = (*MODEL_FILES, "*.py") if options.trust_remote_code else MODEL_FILES
    revision = match["revision"] or options.model_revision
    folder = download(match["repo"], revision, options.hf_hub_token, patterns, elsewhere=_tried(name))
    check_folder(folder, name)
    return ModelFiles(match["repo"], revision=folder.name, description=f"{match['repo']} at {folder.name[:12]}")


@hookimpl
def ft_locate_model(plan: Plan, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    match = HUB_ID.fullmatch(name)
    revision = match and (match["revision"] or plan.of(ModelOptions).model_revision)
    found = match and try_to_load_from_cache(match["repo"], "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _tried(name: str) -> str:
    path = Path(name).absolute()
    near = nearest_siblings(path)
    return f"there is no folder or .gguf file {path}" + (f" (near it: {', '.join(near)})" if near else "")
