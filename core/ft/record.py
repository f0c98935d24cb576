"""What a run leaves behind about itself: ``run.json``, and the care for what stood in ``output_dir`` before."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft import __version__
from ft import estimate as memory
from ft.config import redact, redact_text
from ft.errors import ConfigError, EnvironmentProblem
from ft.files import PREDICTIONS, RECORD, ROWS, VALUE_HEAD, json_object, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ft_hookspecs import Plan, Run

OWN_FILES: Final = (RECORD, ROWS, PREDICTIONS, VALUE_HEAD, "loss.png", "answers.jsonl")
LIBRARIES: Final = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "pluggy")


class Journal:
    """Keeps ``run.json`` true through the phases of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.started = time.time()
        self.owns_folder = False

    def begin(self) -> None:
        """Make the folder, and write the first record unless an earlier run that began training left one there."""
        make_folder(self.run.output_dir)
        self.owns_folder = not (self.run.output_dir / RECORD).exists() or is_as_good_as_empty(self.run.output_dir)
        if self.owns_folder:
            self.write("preparing")

    def take_over(self) -> None:
        """With ``overwrite_output_dir``, remove what an earlier run of ours left; anything else stays.

        Done only when training is about to begin, so that a run that fails earlier, or only evaluates, has cost
        nothing.
        """
        plan = self.run.plan
        if plan.get("do_train", True) and plan.get("overwrite_output_dir") and not plan.get("resume_from_checkpoint"):
            for path in own_paths(self.run.output_dir):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.owns_folder = True

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Replace ``run.json`` as a whole: a reader never sees half of it."""
        text = json.dumps(describe(self.run, status, self.started, error), indent=2, default=str)
        with replacing(self.run.output_dir / RECORD) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def end(self, status: str, error: BaseException | None = None) -> None:
        """The last state, unless the folder still holds an earlier run that this one has not replaced.

        A failure to write it must not hide why the run ended.
        """
        if error is not None and not self.owns_folder:
            return
        try:
            self.write(status, error)
        except OSError:
            if error is None:
                raise


def own_paths(folder: Path) -> list[Path]:
    """What ft itself wrote into an earlier ``output_dir``."""
    return [path for name in OWN_FILES if (path := folder / name).exists()] + sorted(folder.glob("checkpoint-*"))


def is_as_good_as_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or only the record of a run that ended before it trained: worth no refusal."""
    names = {path.name for path in folder.iterdir()}
    if names != {RECORD}:
        return not names
    record = json_object(folder / RECORD)
    return record.get("status") in ("preparing", "failed", "stopped") and not record.get("metrics", True)


def describe(run: Run, status: str, started: float, error: BaseException | None) -> dict[str, Any]:
    """Everything ``run.json`` holds, secrets redacted."""
    plan = run.plan
    return {
        "status": status,
        "error": None if error is None else {"type": type(error).__name__, "message": redact_text(str(error))},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 3),
        "config": redact(plan.values, plan.secrets),
        "sources": {key: str(source) for key, source in plan.sources.items()},
        "plugins": [{"id": info.id, "from": info.distribution, "version": info.version} for info in plan.plugins],
        "versions": dict(versions()),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "model": None if run.model_files is None else run.model_files.description or run.model_files.path,
        "data": {split: vars(counts) for split, counts in run.counts.items()},
        "memory": None if run.estimate is None else memory.describe(run.estimate, memory.room(plan)),
        "changes": [{"plugin": info.id, "summary": change.summary, **change.details} for info, change in run.changes],
        "decisions": run.decisions,
        "notes": list(plan.notes),
        "resumed_from": run.resumed_from,
        "metrics": run.metrics,
    }


@cache
def versions() -> Mapping[str, str]:
    """Versions of ft, Python and the libraries that decide a result, read once: they are the ones in use."""
    found = {"ft": __version__, "python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def make_folder(folder: Path) -> None:
    """Make ``output_dir``.

    Raises:
        EnvironmentProblem: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot make output_dir {str(folder)!r}",
            why=error.strerror or str(error),
            remedy="choose another output_dir",
        ) from error
    if not os.access(folder, os.W_OK):
        raise EnvironmentProblem(f"cannot write to output_dir {str(folder)!r}", remedy="choose another output_dir")


def check_output_dir(plan: Plan) -> None:
    """Refuse to write into a folder that holds something, unless that was asked for.

    Raises:
        ConfigError: ``output_dir`` is missing, a file, or not empty, or the run starts from what it would remove.
    """
    where = str(plan.sources.get("output_dir", ""))
    if plan.output_dir is None:
        raise ConfigError("output_dir is missing", remedy="say where to write: output_dir=outputs/my-run")
    if plan.output_dir.is_file():
        raise ConfigError(f"output_dir {str(plan.output_dir)!r} is a file", where=where, remedy="name a folder")
    asked = plan.get("overwrite_output_dir") or plan.get("resume_from_checkpoint")
    if not asked and plan.output_dir.is_dir() and not is_as_good_as_empty(plan.output_dir):
        raise ConfigError(
            f"output_dir {str(plan.output_dir)!r} is not empty",
            where=where,
            why="a run would overwrite what is in it",
            remedy="choose another output_dir, or say overwrite_output_dir=true or resume_from_checkpoint=true",
        )
    if plan.get("overwrite_output_dir") and not plan.get("resume_from_checkpoint"):
        _check_start(plan, plan.output_dir.resolve())


def _check_start(plan: Plan, output_dir: Path) -> None:
    """A checkpoint that the run starts from must not be among those that it removes."""
    for key in ("model_name_or_path", "adapter_name_or_path"):
        for name in str(plan.get(key) or "").split(","):
            path = Path(name.strip()).resolve()
            if any(parent.parent == output_dir and parent.match("checkpoint-*") for parent in (path, *path.parents)):
                raise ConfigError(
                    f"the run would remove what it starts from: {name.strip()}",
                    where=str(plan.sources.get(key, "")),
                    why=f"overwrite_output_dir removes the checkpoints of {plan.output_dir}",
                    remedy="choose another output_dir, or go on with resume_from_checkpoint",
                )
