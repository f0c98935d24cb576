"""Checkpoints that are whole or not there, and that are checked before they are trusted.

A checkpoint is written beside its place, every file is flushed to the disk, ``manifest.json`` is written last, and one
rename makes it ``checkpoint-<step>``. File names inside are Hugging Face's for the model; what else it holds is JSON
and safetensors.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from blake3 import blake3

from ft.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ft_hookspecs import Plan

MANIFEST: Final = "manifest.json"
FOLDER: Final = re.compile(r"checkpoint-(\d+)")


@contextmanager
def staged(target: Path, *, main: bool, barrier: Callable[[], None]) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` when the block ends well.

    Args:
        target: ``…/checkpoint-<step>``; one that stands there already is replaced.
        main: whether this process makes and publishes the folder; the others only write into it.
        barrier: waits for all processes.
    """
    folder = target.with_name(f"{target.name}.tmp")
    if main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    barrier()
    yield folder
    barrier()
    if main:
        write_manifest(folder)
        _publish(folder, target)
    barrier()


def write_manifest(folder: Path) -> None:
    """Flush every file, then list them with sizes and digests."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        _flush(path)
    entries = [
        {"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "blake3": _digest(path)} for path in files
    ]
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint, naming the file; empty when every byte is as it was written."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for entry in entries:
            path = folder / entry["name"]
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != entry["bytes"] or _digest(path) != entry["blake3"]:
                return f"{path} is not as it was written"
    except FileNotFoundError:
        return f"{folder / MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{folder / MANIFEST} is damaged"
    return ""


def latest_checkpoint(output_dir: Path, report: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest checkpoint that is whole; each newer one that is not is reported with its fault."""
    numbered = [(int(match[1]), path) for path in output_dir.glob("checkpoint-*") if (match := _numbered(path))]
    for _, path in sorted(numbered, reverse=True):
        wrong = fault(path)
        if not wrong:
            return path
        report(f"{path.name} is not used: {wrong}")
    return None


def checkpoint_to_resume(plan: Plan, report: Callable[[str], None]) -> Path | None:
    """What ``resume_from_checkpoint`` asks for: a folder, ``true`` for the newest of ``output_dir``, or nothing.

    Raises:
        ConfigError: the named folder is not a whole checkpoint, or there are checkpoints and none is whole.
    """
    asked = plan.get("resume_from_checkpoint")
    if not asked or str(asked).lower() == "false":
        return None
    if asked is not True and str(asked).lower() != "true":
        wrong = fault(Path(asked))
        if wrong:
            raise ConfigError(
                f"cannot resume from {asked}",
                where=str(plan.sources.get("resume_from_checkpoint", "")),
                why=wrong,
                remedy="name another checkpoint, or set resume_from_checkpoint: true for the newest whole one",
            )
        return Path(asked)
    assert plan.output_dir is not None
    faults: list[str] = []
    found = latest_checkpoint(plan.output_dir, faults.append)
    for line in faults:
        report(line)
    if found is None and faults:
        raise ConfigError(
            f"no checkpoint in {plan.output_dir} is whole", why="; ".join(faults), remedy="start again without resuming"
        )
    if found is None:
        report(f"there is no checkpoint in {plan.output_dir} to resume from: training starts at the beginning")
    return found


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put :func:`random_state` back.

    Raises:
        TrainingError: it was taken on a machine with another number of GPUs.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        if len(state["cuda"]) != torch.cuda.device_count():
            raise TrainingError(
                f"the checkpoint was written with {len(state['cuda'])} visible GPUs, and now there are "
                f"{torch.cuda.device_count()}",
                remedy="make the same number visible (CUDA_VISIBLE_DEVICES)",
            )
        torch.cuda.set_rng_state_all(state["cuda"])


def _numbered(path: Path) -> re.Match[str] | None:
    return FOLDER.fullmatch(path.name) if path.is_dir() else None


def _publish(folder: Path, target: Path) -> None:
    old = target.with_name(f"{target.name}.old")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
