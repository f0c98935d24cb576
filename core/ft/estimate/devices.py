"""How much memory there is to train in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ft.devices import devices, on_gpu

if TYPE_CHECKING:
    from ft.devices import Devices
    from ft_hookspecs import Plan

CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


class DeviceMemory(NamedTuple):
    """Memory of one process of the run, in bytes, and what it is."""

    bytes: int
    name: str
    is_gpu: bool


def room(plan: Plan, machine: Devices | None = None) -> DeviceMemory:
    """The smallest GPU of the run, or this process's share of the host's memory."""
    machine = machine or devices()
    if on_gpu(plan, machine):
        gpu = min(machine.gpus, key=lambda each: each.memory)
        return DeviceMemory(gpu.memory, gpu.name, True)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return DeviceMemory(min(_installed(), _allowed()) // processes, "this machine", False)


def _installed() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _allowed() -> int:
    """A container's limit."""
    try:
        text = CGROUP_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        text = "max"
    return int(text) if text.isdecimal() else _installed()
