"""What several processes, and weights spread over them, need: judged while planning, without torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ft.devices import SHARDING, devices, on_gpu, place, processes
from ft_hookspecs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft.devices import Devices
    from ft_hookspecs import Plan


def process_problems(plan: Plan, machine: Devices | None = None) -> Iterator[Problem]:
    """What accelerate would pass over without a word: sharding on a CPU, and processes that do not know each other."""
    machine = machine or devices()
    on_cpu = not on_gpu(plan, machine)
    if on_cpu:
        yield from _sharded_on_cpu(plan, place(plan, machine))
    elif plan.get("deepspeed") and find_spec("deepspeed") is None:
        yield Problem("deepspeed is not installed", remedy="pip install deepspeed", keys=("deepspeed",), exit_code=5)
    if plan.get("fsdp_config") and not plan.get("fsdp"):
        yield Problem(
            "fsdp_config has no effect without fsdp",
            remedy="set fsdp: full_shard, or take fsdp_config out",
            keys=("fsdp_config",),
        )
    if on_cpu and not plan.get("use_cpu") and (number := processes()) > 1:
        yield Problem(
            f"{number} processes on a machine without a GPU need use_cpu",
            why="without it each of them would train on all of the data by itself, and write over the others",
            remedy="set use_cpu: true, or start one process",
            keys=("use_cpu",),
            exit_code=5,
        )


def _sharded_on_cpu(plan: Plan, where: str) -> Iterator[Problem]:
    for key in SHARDING:
        if plan.get(key):
            yield Problem(
                f"{key} needs GPUs",
                why=f"on a CPU accelerate leaves the weights of each process whole; this run computes on: {where}",
                remedy=f"take {key} out: several processes on a CPU train alike with use_cpu: true and torchrun",
                keys=(key, "use_cpu"),
                exit_code=5,
            )
