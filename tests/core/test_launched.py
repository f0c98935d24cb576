"""What `accelerate launch` switches on is seen by the checks, as the keys that mean the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ft import processes
from ft.devices import Devices, Gpu
from ft.errors import Problems
from ft.launched import by_launcher
from ft.planning import make_plan
from ft_hookspecs import Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Plan

GPU = Devices(1, True, True, "1 x NVIDIA H200", (Gpu("NVIDIA H200", "GPU-0", (9, 0), 150 * 10**9),))
FSDP = {"ACCELERATE_USE_FSDP": "true"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Plan]:
    """A plan of these words on a machine with a GPU, under these variables."""
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "devices", lambda: GPU)
    monkeypatch.setattr(processes, "find_spec", lambda _: object())

    def plan(words: str, variables: dict[str, str]) -> Plan:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return make_plan(None, ["model_name_or_path=m", "dataset=rows.json", "output_dir=out", *words.split()])[0]

    return plan


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        ("quantization_bit=4 quantization_method=hqq", FSDP, "hqq cannot be combined with fsdp"),
        ("quantization_bit=8", FSDP, "bnb with 8 bits cannot be combined with fsdp"),
        ("quantization_bit=4", DEEPSPEED, "bnb cannot be combined with deepspeed"),
        ("finetuning_type=full use_galore=true", DEEPSPEED, "galore cannot be combined with deepspeed"),
        ("pissa_init=true", FSDP, "pissa_init cannot be combined with fsdp"),
        ("stage=ppo reward_model=r", DEEPSPEED, "reward_model_type: lora cannot be combined with deepspeed"),
        ("use_cpu=true", FSDP, "fsdp needs GPUs"),
        ("gradient_checkpointing=full", {**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "are both on"),
    ],
)
def test_what_is_refused_with_a_key_is_refused_with_its_variable(
    planned: Callable[..., Plan], words: str, variables: dict[str, str], expected: str
) -> None:
    with pytest.raises(Problems) as caught:
        planned(words, variables)
    (problem,) = [problem for problem in caught.value.problems if expected in str(problem)]
    assert problem.where == next(iter(variables))
    assert f"({problem.where} of accelerate launch sets " in problem.remedy


def test_a_plan_shows_what_the_launcher_set(planned: Callable[..., Plan]) -> None:
    plan = planned("", FSDP)
    assert (plan.get("fsdp"), str(plan.sources["fsdp"])) == ("full_shard", "ACCELERATE_USE_FSDP")
    assert by_launcher(plan.sources["fsdp"])
    assert not by_launcher(plan.sources["output_dir"])


def test_the_launchers_cpu_is_use_cpu(planned: Callable[..., Plan]) -> None:
    assert planned("", {"ACCELERATE_USE_CPU": "True"}).get("use_cpu") is True


def test_a_key_stays_as_it_is(planned: Callable[..., Plan]) -> None:
    plan = planned("fsdp=auto_wrap", FSDP)
    assert (plan.get("fsdp"), str(plan.sources["fsdp"])) == ("auto_wrap", "command line: fsdp")


def test_variables_that_switch_nothing_on_change_nothing(planned: Callable[..., Plan]) -> None:
    off = {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    plan = planned("", {**off, "ACCELERATE_MIXED_PRECISION": "no"})
    assert not plan.get("fsdp")
    assert not plan.get("deepspeed")


@pytest.mark.parametrize(
    ("name", "value", "words", "expected"),
    [
        ("ACCELERATE_USE_MEGATRON_LM", "true", "", "accelerate launch asks for Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "", "tensor, context or sequence parallelism"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "", "torch_compile_backend: inductor"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "", "or set bf16: true"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "", "use --mixed_precision no"),
    ],
)
def test_what_accelerate_would_do_by_itself_is_refused(
    planned: Callable[..., Plan], name: str, value: str, words: str, expected: str
) -> None:
    with pytest.raises(Problems) as caught:
        planned(words, {name: value})
    (problem,) = caught.value.problems
    assert problem.where == name
    assert expected in str(problem)


def test_mixed_precision_as_in_the_configuration_is_no_problem(planned: Callable[..., Plan]) -> None:
    assert planned("bf16=true", {"ACCELERATE_MIXED_PRECISION": "bf16"}).get("bf16")


def test_fsdp_config_is_not_read_beside_the_launchers(planned: Callable[..., Plan]) -> None:
    with pytest.raises(Problems, match="fsdp_config is not read where accelerate launch configures FSDP"):
        planned('fsdp_config={"version":2}', FSDP)


def test_the_trainer_is_not_told_so_that_accelerate_configures_itself(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft.training.arguments import training_arguments

    plan = planned("", FSDP)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert not training_arguments(Run(plan)).fsdp
