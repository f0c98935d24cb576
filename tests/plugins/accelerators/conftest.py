"""Plans of accelerators on a machine that is only said to be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ft.devices import Devices, Gpu, TorchBuild
from ft.errors import Problems
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

H200 = Devices(1, True, True, "1 x NVIDIA H200", (Gpu("NVIDIA H200", "GPU-0", (9, 0), 150 * 10**9),))
A100 = Devices(1, True, True, "1 x NVIDIA A100", (Gpu("NVIDIA A100", "GPU-0", (8, 0), 80 * 10**9),))
V100 = Devices(1, False, True, "1 x NVIDIA V100", (Gpu("NVIDIA V100", "GPU-0", (7, 0), 16 * 10**9),))
CPU = Devices(0, True, False, "CPU (2 cores)")
MACHINES = {"cpu": CPU, "v100": V100, "a100": A100, "h200": H200}


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """What planning says of these words on a machine, all problems together; nothing when it plans."""

    def plan(words: str, machine: str = "cpu", installed: tuple[str, ...] = (), torch: str = "2.13.0+cu130") -> str:
        here = MACHINES[machine]
        monkeypatch.setattr("ft.devices.devices", lambda: here)
        monkeypatch.setattr("ft_plugins.accelerators.flash_attn.devices", lambda: here)
        monkeypatch.setattr("ft.precision.devices", lambda: here)
        monkeypatch.setattr("ft_plugins.accelerators.flash_attn.has_package", lambda: "flash_attn" in installed)
        build = TorchBuild(torch, "13.0")
        monkeypatch.setattr("ft_plugins.accelerators.flash_attn.torch_build", lambda: build)
        for module in ("liger", "unsloth"):
            find = lambda name: object() if name in installed else None  # noqa: E731 - a stand-in
            monkeypatch.setattr(f"ft_plugins.accelerators.{module}.find_spec", find)
        pairs = [word for word in words.split() if "=" in word]
        plugins = [word for word in words.split() if "=" not in word]
        usual: list[Any] = ["model_name_or_path=m", "dataset=rows.json", f"output_dir={tmp_path / 'out'}"]
        try:
            make_plan(None, [*usual, *pairs], plugins)
        except Problems as problems:
            return str(problems)
        return ""

    return plan
