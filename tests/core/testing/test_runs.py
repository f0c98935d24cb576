"""Processes of whole runs: how they are started."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest

from ft.devices import Devices
from ft.testing import Runs, runs

if TYPE_CHECKING:
    from pathlib import Path


class StartedError(Exception):
    """In place of a process."""


@pytest.mark.parametrize(
    ("gpus", "keys", "method"),
    [(0, {}, "forkserver"), (1, {"use_cpu": True}, "forkserver"), (1, {}, "spawn"), (1, {"use_cpu": False}, "spawn")],
)
def test_a_run_on_a_gpu_is_not_forked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, keys: dict[str, Any], method: str
) -> None:
    """Libraries ask CUDA for devices when they are imported; after that a forked process cannot use any."""
    asked: list[str] = []

    class Context:
        def set_forkserver_preload(self, _: list[str]) -> None: ...

        def Process(self, **_: Any) -> None:  # noqa: N802 - as multiprocessing calls it
            raise StartedError

    monkeypatch.setattr(runs, "devices", lambda: Devices(gpus, True, True, "a machine"))
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: asked.append(name) or Context())
    with pytest.raises(StartedError):
        Runs()({"output_dir": tmp_path / "out", **keys})
    assert asked == [method]
