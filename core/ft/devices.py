"""What this machine computes on, found without importing torch: planning must know it in milliseconds.

NVIDIA devices are asked through the management library (NVML), which unlike ``cuInit`` leaves the process free to fork.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Mapping, Sequence

    from ft_hookspecs import Plan, Problem

CPU_INFO = Path("/proc/cpuinfo")
CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86 AVX-512, x86 AMX, Arm FEAT_BF16
CUDA_BF16_CAPABILITY = (8, 0)  # Ampere: the first with bf16 matrix units
SHARDING = ("fsdp", "deepspeed")
"""Keys that spread the weights over processes."""


class Gpu(NamedTuple):
    """One NVIDIA device; ``capability`` is CUDA's compute capability, ``memory`` bytes."""

    name: str
    uuid: str
    capability: tuple[int, int]
    memory: int


class TorchBuild(NamedTuple):
    """The installed torch as its files say; ``cuda`` is ``None`` for a build that cannot use NVIDIA devices."""

    version: str
    cuda: str | None


class Devices(NamedTuple):
    """What a run would compute on.

    ``cuda`` counts the devices that are visible *and* usable by the installed torch; ``gpus`` lists the visible ones,
    usable or not. ``bf16`` and ``fp16`` say whether every device of the run computes that dtype natively: slow
    emulation does not count.
    """

    cuda: int
    bf16: bool
    fp16: bool
    description: str
    gpus: tuple[Gpu, ...] = ()


def devices(environ: Mapping[str, str] = os.environ) -> Devices:
    """The devices of a run started in ``environ`` (``CUDA_VISIBLE_DEVICES`` is honoured)."""
    gpus = tuple(_visible(_gpus(), environ.get("CUDA_VISIBLE_DEVICES")))
    build = torch_build()
    if gpus and build and build.cuda:
        bf16 = all(gpu.capability >= CUDA_BF16_CAPABILITY for gpu in gpus)
        return Devices(len(gpus), bf16, True, f"{_names(gpus)}, {_native('bf16', bf16)}", gpus)
    bf16 = bool(CPU_BF16_FLAGS & _cpu_flags())
    description = f"CPU ({os.cpu_count()} cores, {os.uname().machine}), {_native('bf16', bf16)}"
    if gpus:
        unusable = f"torch {build.version} is built without CUDA" if build else "torch is not installed"
        description += f"; {_names(gpus)} present, but {unusable}"
    return Devices(0, bf16, False, description, gpus)


def on_gpu(plan: Plan, machine: Devices | None = None) -> bool:
    """Whether the run computes on an NVIDIA device."""
    return not plan.get("use_cpu") and (machine or devices()).cuda > 0


def place(plan: Plan, machine: Devices | None = None) -> str:
    """What the run computes on, in words."""
    return "CPU, as use_cpu asks" if plan.get("use_cpu") else (machine or devices()).description


def processes(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher has started for this run, over all machines."""
    return int(environ.get("WORLD_SIZE", "1"))


def sharding_problems(
    plan: Plan, what: str, why: str, remedy: str, keys: tuple[str, ...] = (), by: tuple[str, ...] = SHARDING
) -> Iterator[Problem]:
    """``what`` needs whole weights on each process; ``remedy`` is what else helps than to take the key out."""
    from ft_hookspecs import Problem  # commands that ask for devices alone need no pydantic

    for key in by:
        if plan.get(key):
            yield Problem(f"{what} cannot be combined with {key}", why, f"take {key} out, {remedy}", (*keys, key))


def torch_build() -> TorchBuild | None:
    """Version and CUDA version of the installed torch, read from its ``version.py`` as text; ``None`` without torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        lines = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    stated = dict(_constant(line) for line in lines if "=" in line)
    return TorchBuild(stated.get("__version__") or "unknown", stated.get("cuda"))


def _constant(line: str) -> tuple[str, str | None]:
    """``cuda: Optional[str] = '12.8'`` → ``("cuda", "12.8")``; ``None`` for ``None``."""
    name, _, value = line.partition("=")
    value = value.strip()
    return name.partition(":")[0].strip(), None if value == "None" else value.strip("'\"")


def _native(dtype: str, native: bool) -> str:
    return f"{dtype} {'native' if native else 'not native'}"


def _names(gpus: Sequence[Gpu]) -> str:
    counts = {gpu.name: sum(other.name == gpu.name for other in gpus) for gpu in gpus}
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def _cpu_flags() -> frozenset[str]:
    """The first core's flags; a machine of 200 cores repeats them 200 times, so reading stops there."""
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


# ---- NVIDIA -------------------------------------------------------------------------------------------------------


def _visible(gpus: Sequence[Gpu], setting: str | None) -> Iterator[Gpu]:
    """What CUDA would enumerate: entries are indices or UUID prefixes, and the first invalid one ends the list."""
    if setting is None:
        yield from gpus
        return
    seen: set[str] = set()
    for entry in setting.split(","):
        gpu = _named(gpus, entry.strip())
        if gpu is None or gpu.uuid in seen:
            return
        seen.add(gpu.uuid)
        yield gpu


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if entry.startswith("MIG-"):  # an instance of some GPU here; NVML does not say of which without more rights
        return gpus[0]._replace(uuid=entry) if gpus else None
    matches = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _gpus() -> list[Gpu]:
    """Every NVIDIA device of the machine; empty without a driver."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2():
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return [_gpu(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu:
    import ctypes

    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    memory = (ctypes.c_ulonglong * 3)()  # struct nvmlMemory_t: total, free, used
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
    nvml.nvmlDeviceGetName(handle, name, len(name))
    nvml.nvmlDeviceGetUUID(handle, uuid, len(uuid))
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    return Gpu(name.value.decode(), uuid.value.decode(), (major.value, minor.value), memory[0])
