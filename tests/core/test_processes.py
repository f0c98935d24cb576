"""Sharding and processes that a machine cannot have are refused while planning."""

from __future__ import annotations

import pytest

from ft import processes
from ft.devices import Devices, Gpu
from ft.errors import Problems
from ft.planning import make_plan

GPU = Devices(1, True, True, "1 x NVIDIA H200", (Gpu("NVIDIA H200", "GPU-0", (9, 0), 150 * 10**9),))
CPU = Devices(0, True, False, "CPU (2 cores)")


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What planning says of these words on a machine; nothing when it plans."""
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    (tmp_path / "ds.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def plan(words: str, machine: Devices = CPU, count: int = 1) -> str:
        monkeypatch.setattr(processes, "devices", lambda: machine)
        monkeypatch.setenv("WORLD_SIZE", str(count))
        try:
            make_plan(None, ["model_name_or_path=m", "dataset=rows.json", "output_dir=out", *words.split()])
        except Problems as problems:
            return str(problems)
        return ""

    return plan


@pytest.mark.parametrize("key", ["fsdp=full_shard", "deepspeed=ds.json"])
def test_weights_are_not_sharded_on_a_cpu(said, key):
    name = key.partition("=")[0]
    assert f"{name} needs GPUs" in said(key)
    assert "CPU, as use_cpu asks" in said(f"{key} use_cpu=true", GPU)
    assert f"take {name} out" in said(key)


def test_fsdp_is_planned_on_a_gpu(said):
    assert said("fsdp=full_shard", GPU) == ""


def test_a_missing_deepspeed_comes_with_its_line(said, monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda _: None)
    assert "pip install deepspeed" in said("deepspeed=ds.json", GPU)
    monkeypatch.setattr(processes, "find_spec", lambda _: object())
    assert said("deepspeed=ds.json", GPU) == ""


def test_settings_of_fsdp_without_fsdp(said):
    assert "fsdp_config has no effect without fsdp" in said('fsdp_config={"version":2}', GPU)


def test_processes_on_a_cpu_know_each_other_only_with_use_cpu(said):
    assert "2 processes on a machine without a GPU need use_cpu" in said("", count=2)
    assert said("use_cpu=true", count=2) == ""
    assert said("", GPU, count=2) == ""
