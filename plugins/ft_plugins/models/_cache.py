"""Folders that appear whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ft.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``target`` when the block ends well.

    Two processes that fill the same target at once both succeed: the content is the same, and the first one stays.

    Raises:
        EnvironmentProblem: nothing can be written there.
    """
    with _scratch(target) as scratch:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A temporary folder on the file system of ``target``, so that renaming is one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise EnvironmentProblem(
            f"the cache folder {target.parent} cannot be written",
            why=str(error),
            remedy="set cache_dir (or FT_CACHE_DIR) to a folder that you may write",
        ) from error
    with scratch as name:
        yield Path(name)
