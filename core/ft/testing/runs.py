"""Whole runs in processes of their own, that can be killed and that can be a group: what a contract test needs.

The processes are forked from one that has the libraries imported and has computed nothing, so that a run of a tiny
model costs a second, not ten. CUDA does not survive a fork, not even one that only asked how many devices there are,
as libraries do when they are imported: a run on a GPU imports all of its own.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.devices import devices
from ft.files import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

PRELOADED: Final = ("torch", "transformers", "peft", "datasets", "ft.lifecycle", "ft.planning", "ft.training.trainer")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit codes of its processes (negative: the signal), and what the first of them printed."""

    folder: Path
    exits: tuple[int, ...]
    output: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; none if the run wrote none."""
        path = self.folder / ROWS
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def series(self, name: str, event: str = "train") -> dict[int, float]:
        """The values of a metric by step."""
        return {row["step"]: row[name] for row in self.rows if row["event"] == event and name in row}

    def tensors(self) -> dict[str, Any]:
        """Every tensor of every safetensors file in the folder itself, by file and name."""
        from safetensors.torch import load_file

        files = sorted(self.folder.glob("*.safetensors"))
        return {f"{path.name}:{name}": tensor for path in files for name, tensor in load_file(path).items()}


@dataclass
class Runs:
    """Carries out runs one after another; ``always`` are keys of each of them."""

    always: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 240.0
    """Seconds after which the processes of a run are killed."""
    preload: Sequence[str] = ()
    """Further modules to import once for all runs: those of the first :class:`Runs` of a process count."""

    def __call__(
        self, keys: Mapping[str, Any], *, plugins: Sequence[str] = (), processes: int = 1, kill_after: int | None = None
    ) -> Outcome:
        """Carry out a run.

        Args:
            keys: of its configuration, ``output_dir`` among them.
            plugins: names, or paths of files.
            processes: of a gloo group.
            kill_after: end the first process with SIGKILL at the end of this optimizer step.
        """
        merged = {**self.always, **keys}
        words = [f"{key}={written(value)}" for key, value in merged.items() if value is not None]
        folder = Path(merged["output_dir"])
        printed = folder.with_name(f"{folder.name}.out")
        port = _free_port()
        forks = merged.get("use_cpu") or not devices().cuda
        context = _context(self.preload) if forks else multiprocessing.get_context("spawn")
        group = [
            context.Process(target=_run, args=(words, plugins, rank, processes, port, kill_after, str(printed)))
            for rank in range(processes)
        ]
        return Outcome(folder, _await(group, self.timeout), printed.read_text(encoding="utf-8"))


def _context(preload: Sequence[str]) -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *preload])
    return context


def _await(group: Sequence[BaseProcess], timeout: float) -> tuple[int, ...]:
    """Start the processes and wait; when one fails, the others of its group wait for it no longer."""
    for process in group:
        process.start()
    group[0].join(timeout)
    for process in group[1:]:
        process.join(timeout if group[0].exitcode == 0 else 1)
    for process in group:
        if process.is_alive():
            process.kill()
            process.join()
    return tuple(process.exitcode if process.exitcode is not None else -signal.SIGKILL for process in group)


def written(value: Any) -> str:
    """A value as a word of the command line."""
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(
    words: list[str], plugins: Sequence[str], rank: int, processes: int, port: int, kill_after: int | None, printed: str
) -> None:
    """One process of a run; its exit code is that of ``ft run``."""
    if processes > 1:
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": processes,
            "RANK": rank,
            "LOCAL_RANK": rank,
        }
        os.environ |= {name: str(value) for name, value in group.items()}
    with Path(printed if rank == 0 else os.devnull).open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        sys.exit(_carry_out(words, plugins, kill_after))


def _carry_out(words: list[str], plugins: Sequence[str], kill_after: int | None) -> int:
    import torch

    from ft.errors import FtError
    from ft.lifecycle import run
    from ft.planning import make_plan

    torch.set_num_threads(1)
    gc.freeze()  # transformers collects garbage after training: half of a short run, were all libraries walked
    try:
        plan, manager = make_plan(None, words, plugins)
        if kill_after is not None:
            _die_after(kill_after)
        run(plan, manager, lambda line: print(line, flush=True))  # noqa: T201 - into the file of this process
    except FtError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201 - as above
        return error.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _die_after(step: int) -> None:
    """Make every trainer of this process kill it at the end of a step, before anything else sees that end."""
    from transformers import Trainer, TrainerCallback

    class Die(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= step:
                os.kill(os.getpid(), signal.SIGKILL)

    train = Trainer.train

    def train_and_die(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.callback_handler.callbacks.insert(0, Die())
        return train(self, *args, **kwargs)

    Trainer.train = train_and_die
