"""Runs of a stage on a tiny model; a module says by ``words`` what its own stage needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def words_with(tiny_model_dir: Path, tmp_path: Path, cache: Path) -> Callable[..., list[str]]:
    """A configuration as command line words; a key that is ``None`` is left out."""

    def make(**changes: Any) -> list[str]:
        keys = {
            "finetuning_type": "lora",
            "lora_rank": 4,
            "model_name_or_path": tiny_model_dir,
            "dataset_dir": tmp_path,
            "output_dir": tmp_path / "out",
            "overwrite_output_dir": True,
            "cache_dir": cache,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            **changes,
        }
        return [f"{key}={value}" for key, value in keys.items() if value is not None]

    return make


@pytest.fixture
def execute(words: Callable[..., list[str]]) -> Callable[..., Run]:
    """Carries out the run of ``words``, with some keys changed."""
    return lambda **changes: run_lifecycle(*make_plan(None, words(**changes)), print)
