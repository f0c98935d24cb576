"""Number formats: what is refused, what is chosen and why, and that bf16 with fp32 adapters has the right gradients."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.devices import Devices
from ft.precision import choose_dtype, precision_problems
from ft.training import Engine, pack, training_arguments
from ft_hookspecs import Plan, Run, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

PLAIN = Devices(0, False, False, "an old CPU")
MODERN = Devices(0, True, False, "a CPU with bf16")
CUDA = Devices(1, True, True, "a GPU")


def plan(folder: Path | None = None, **values: Any) -> Plan:
    sources = {key: Source("file", f"config.yaml:{line}") for line, key in enumerate(values, 1)}
    return Plan(values, sources, (), (), folder)


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, ft.training, ft.precision as p; from ft_hookspecs import Plan; "
        "list(p.precision_problems(Plan({'fp16': True}, {}, (), (), None))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("values", "machine", "said"),
    [
        ({"fp16": True}, MODERN, "needs a GPU"),
        ({"dtype": "float16"}, PLAIN, "needs a GPU"),
        ({"fp16": True, "use_cpu": True}, CUDA, "needs a GPU"),
        ({"bf16": True, "fp16": True}, CUDA, "bf16 and fp16"),
        ({"bf16": True, "pure_bf16": True}, CUDA, "bf16 and pure_bf16"),
        ({"pure_bf16": True, "dtype": "float32"}, CUDA, "contradicts"),
    ],
)
def test_what_is_refused(values: dict[str, Any], machine: Devices, said: str) -> None:
    (problem,) = precision_problems(plan(**values), machine)
    assert said in problem.what
    assert problem.remedy
    assert set(problem.keys) <= set(values)
    assert problem.exit_code == 2


@pytest.mark.parametrize("values", [{}, {"bf16": True}, {"pure_bf16": True}, {"fp16": False}, {"dtype": "auto"}])
def test_what_is_not_refused(values: dict[str, Any]) -> None:
    assert not list(precision_problems(plan(**values), PLAIN))


@pytest.mark.parametrize(
    ("values", "everything", "machine", "dtype"),
    [
        ({}, True, MODERN, torch.float32),
        ({}, False, MODERN, torch.bfloat16),
        ({}, False, PLAIN, torch.float32),
        ({"bf16": True}, True, MODERN, torch.float32),
        ({"bf16": True}, False, PLAIN, torch.bfloat16),
        ({"bf16": False}, False, MODERN, torch.float32),
        ({"fp16": True}, False, CUDA, torch.float16),
        ({"fp16": True}, True, CUDA, torch.float32),
        ({"pure_bf16": True}, True, PLAIN, torch.bfloat16),
        ({"dtype": "float32", "bf16": True}, False, MODERN, torch.float32),
    ],
)
def test_what_is_chosen(values: dict[str, Any], everything: bool, machine: Devices, dtype: torch.dtype) -> None:
    chosen, reason = choose_dtype(plan(**values), everything, machine)
    assert chosen == dtype
    assert reason


def half(model: nn.Module) -> nn.Module:
    """Frozen weights in bf16, adapters in fp32."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    return model


def test_adapters_in_fp32_over_a_bf16_base(build: Callable[..., nn.Module], features: list[dict[str, Any]]) -> None:
    """Gradients point where those of fp32 point, and no adapter is left without one."""
    batch = pack(features)
    exact, model = build("llama", "lora"), half(build("llama", "lora"))
    Engine(exact, attention="packed").cross_entropy(batch, 50).backward()
    engine = Engine(model)
    engine.check(batch)
    assert engine.packed, engine.reason
    engine.cross_entropy(batch, 50).backward()
    for (name, wanted), found in zip(exact.named_parameters(), model.parameters(), strict=True):
        if wanted.requires_grad:
            assert found.grad is not None, name
            assert found.grad.dtype == torch.float32
            assert torch.cosine_similarity(found.grad.flatten(), wanted.grad.flatten(), 0) > 0.99, name


# ---- TrainingArguments


@pytest.mark.parametrize(
    ("tuning", "values", "bf16"),
    [("full", {"bf16": True}, True), ("full", {}, False), ("lora", {"bf16": True}, False), ("lora", {}, False)],
)
def test_autocast_only_over_fp32(
    build: Callable[..., nn.Module], tmp_path: Path, tuning: str, values: dict[str, Any], bf16: bool
) -> None:
    model = half(build("llama", tuning))
    args = training_arguments(Run(plan(tmp_path, use_cpu=True, **values), model=model))
    assert args.bf16 is bf16


@pytest.mark.parametrize("bf16", [True, False])
def test_accelerate_launch_switches_no_autocast_on(
    build: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    model = build("llama", "full") if bf16 else half(build("llama", "lora"))
    args = training_arguments(Run(plan(tmp_path, use_cpu=True, bf16=True), model=model))
    assert args.mixed_precision == ("bf16" if bf16 else "no")


def test_arguments_of_a_run(tmp_path: Path) -> None:
    values = {"learning_rate": 3e-4, "disable_shuffling": True, "report_to": ["jsonl"], "eval_on_start": True}
    run: Any = SimpleNamespace(
        plan=plan(tmp_path, use_cpu=True, cutoff_len=9, **values), model=None, output_dir=tmp_path
    )
    args = training_arguments(run, per_device_train_batch_size=3)
    assert args.learning_rate == 3e-4
    assert args.train_sampling_strategy == "sequential"
    assert args.report_to == []
    assert not args.eval_on_start
    assert not args.logging_nan_inf_filter
    assert not args.remove_unused_columns
    assert args.disable_tqdm
    assert not args.dataloader_pin_memory
    assert args.per_device_train_batch_size == 3
    assert args.output_dir == str(tmp_path)


def test_a_default_of_the_library_is_left_to_it(tmp_path: Path) -> None:
    chosen = Plan({"weight_decay": 0.5}, {"weight_decay": Source("library default")}, (), (), tmp_path)
    run: Any = SimpleNamespace(plan=chosen, model=None, output_dir=tmp_path)
    assert training_arguments(run, use_cpu=True).weight_decay == 0.0
