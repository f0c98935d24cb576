"""Devices are found without torch, quickly, and as CUDA would enumerate them."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ft import devices as module
from ft.devices import Gpu, TorchBuild, devices, on_gpu, place, processes, torch_build
from ft_hookspecs import Plan

AMPERE = Gpu("A100", "GPU-aaaa-1", (8, 0), 80 * 2**30)
TURING = Gpu("T4", "GPU-bbbb-2", (7, 5), 16 * 2**30)
CUDA_BUILD = TorchBuild("2.13.0+cu128", "12.8")
CPU_BUILD = TorchBuild("2.13.0+cpu", None)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A pretended machine: its GPUs, its torch and the text of its /proc/cpuinfo."""

    def pretend(gpus=(), build=CUDA_BUILD, cpu=None):
        monkeypatch.setattr(module, "_gpus", lambda: list(gpus))
        monkeypatch.setattr(module, "torch_build", lambda: build)
        path = tmp_path / "cpuinfo"
        if cpu is not None:
            path.write_text(cpu)
        monkeypatch.setattr(module, "CPU_INFO", path)

    return pretend


@pytest.mark.parametrize(
    ("cpu", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx2\nflags\t\t: avx512_bf16\n", False),  # the first core counts
        (None, False),
    ],
)
def test_cpu_bf16_is_read_from_the_flags(machine, cpu, native):
    machine(cpu=cpu)
    found = devices({})
    assert (found.cuda, found.bf16, found.fp16) == (0, native, False)
    assert ("bf16 native" in found.description) is native


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, ["A100", "T4"]),
        ("", []),
        ("-1", []),
        ("1", ["T4"]),
        ("1,0", ["T4", "A100"]),
        ("0,7,1", ["A100"]),
        ("0,0", ["A100"]),
        ("GPU-bbbb", ["T4"]),
        ("GPU-", []),
        ("MIG-1f2e", ["A100"]),
    ],
)
def test_cuda_visible_devices(machine, setting, names):
    machine([AMPERE, TURING])
    found = devices({} if setting is None else {"CUDA_VISIBLE_DEVICES": setting})
    assert [gpu.name for gpu in found.gpus] == names
    assert found.cuda == len(names)


def test_capability_decides_bf16_and_the_weakest_device_counts(machine):
    machine([AMPERE])
    assert devices({})[:3] == (1, True, True)
    machine([AMPERE, TURING])
    assert devices({})[:3] == (2, False, True)
    assert devices({}).description == "1 x A100, 1 x T4, bf16 not native"


def test_a_gpu_that_torch_cannot_use_does_not_count(machine):
    machine([AMPERE], build=CPU_BUILD, cpu="flags : fpu\n")
    found = devices({})
    assert (found.cuda, found.fp16, found.gpus) == (0, False, (AMPERE,))
    assert "torch 2.13.0+cpu is built without CUDA" in found.description


def test_use_cpu_outranks_what_is_there(machine):
    machine([AMPERE])
    free, held = (Plan({"use_cpu": value}, {}, (), (), None) for value in (False, True))
    assert (on_gpu(free), on_gpu(held)) == (True, False)
    assert (place(free), place(held)) == ("1 x A100, bf16 native", "CPU, as use_cpu asks")
    machine([AMPERE], CPU_BUILD, cpu="")
    assert not on_gpu(free)


def test_the_launcher_says_how_many_processes_there_are():
    assert (processes({}), processes({"WORLD_SIZE": "3"})) == (1, 3)


def fake_nvml(events):
    """NVML for one T4: it writes into what it is given by reference, as the library does."""

    def put(reference, value):
        reference._obj.value = value

    def memory(_, reference):
        reference._obj[0] = TURING.memory

    def text(value):
        return lambda handle, buffer, size: handle.value == 41 and setattr(buffer, "value", value)

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlShutdown=lambda: events.append("closed"),
        nvmlDeviceGetCount_v2=lambda count: put(count, 1),
        nvmlDeviceGetHandleByIndex_v2=lambda index, handle: put(handle, 41 + index),
        nvmlDeviceGetName=text(b"T4"),
        nvmlDeviceGetUUID=text(b"GPU-bbbb-2"),
        nvmlDeviceGetCudaComputeCapability=lambda _, major, minor: (put(major, 7), put(minor, 5)),
        nvmlDeviceGetMemoryInfo=memory,
    )


def test_nvml_is_read_and_closed(monkeypatch):
    events = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_nvml(events))
    assert module._gpus() == [TURING]
    assert events == ["closed"]


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert module._gpus() == []


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", CUDA_BUILD),
        ("__all__ = ['cuda']\n__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", CPU_BUILD),
    ],
)
def test_torch_build_is_read_as_text(monkeypatch, tmp_path, text, build):
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert torch_build() == build


def test_torch_build_agrees_with_torch():
    import torch

    assert torch_build() == TorchBuild(torch.__version__, torch.version.cuda)


def test_no_torch_is_no_build(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert torch_build() is None


def test_devices_import_nothing_heavy():
    ask = "import sys, ft.devices as d; d.devices(); print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout == "False\n"


def test_devices_cost_little():
    """CPU milliseconds above what every command of ft imports; the least of several runs is the machine's own."""
    ask = (
        "import typing, pathlib, importlib.util, time\n"
        "begun = time.process_time()\n"
        "import ft.devices\n"
        "ft.devices.devices()\n"
        "print(1000 * (time.process_time() - begun))"
    )
    runs = [subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True) for _ in range(6)]
    assert min(float(run.stdout) for run in runs) < 20 or module._gpus()  # a driver takes its own time to answer
