"""Value heads that a run can go on with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ft.files import VALUE_HEAD
from ft_plugins import _saved_adapters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import Run


def own_heads(run: Run) -> Iterator[Path]:
    """The folders of what the run starts from that hold a value head: of its last adapter, then of its model."""
    assert run.model_files is not None
    adapters = [_saved_adapters.folder_of(name, run.plan) for name in _saved_adapters.names(run.plan)[-1:]]
    return (folder for folder in (*adapters, Path(run.model_files.path)) if (folder / VALUE_HEAD).is_file())
