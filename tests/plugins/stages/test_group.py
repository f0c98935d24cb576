"""grpo and rloo in whole runs of a tiny model: advantages, reference, evaluation, checkpoints."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.errors import DataError, TrainingError
from ft.lifecycle import run
from ft.planning import make_plan
from ft.testing import Runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run
    from ft_plugins.stages._trainers.group import GroupTrainer

STAGES = ("grpo", "rloo")
QUESTIONS = [{"instruction": f"What is the colour of stone {name}?", "output": "Red."} for name in "abcdefgh"]
VOWELS = """
from ft_hookspecs import hookimpl

@hookimpl
def ft_reward(run, prompts, answers):
    return [sum(letter in "aeiou" for letter in answer) / max(1, len(answer)) for answer in answers]
"""


@pytest.fixture(scope="module")
def keys(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("group")
    (folder / "data.json").write_text(json.dumps(QUESTIONS))
    (folder / "vowels.py").write_text(VOWELS)
    return {
        "model_name_or_path": tiny_model_dir,
        "cache_dir": folder / "cache",
        "finetuning_type": "lora",
        "dataset": folder / "data.json",
        "plugins": folder / "vowels.py",
        "num_generations": 4,
        "max_new_tokens": 8,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_steps": 2,
        "use_cpu": True,
    }


@pytest.fixture
def finish(keys: dict[str, Any], tmp_path: Path) -> Callable[..., Run]:
    """Carries out a run with further keys."""

    def carry_out(stage: str, **more: Any) -> Run:
        given = {**keys, "stage": stage, "output_dir": tmp_path / "out", **more}
        return run(*make_plan(None, [f"{key}={value}" for key, value in given.items()]))

    return carry_out


def rows(finished: Run, event: str = "train") -> list[dict[str, Any]]:
    lines = (finished.output_dir / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if (row := json.loads(line))["event"] == event]


def scored(trainer: GroupTrainer, rewards: list[float]) -> torch.Tensor:
    """The advantages of answers to two prompts that are given these rewards."""
    trainer.reward_funcs = [lambda prompts, **_: rewards]
    trainer.model.train()
    asked = [trainer.train_dataset[index] for index in (0, 0, 0, 0, 1, 1, 1, 1)]
    advantages: torch.Tensor = trainer._generate_and_score_completions(asked)["advantages"]
    return advantages


GIVEN = [1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 4.0]


def test_grpo_advantages_are_normalised_by_their_group(finish: Callable[..., Run]) -> None:
    advantages = scored(finish("grpo", beta=0).trainer, GIVEN)
    groups = torch.tensor(GIVEN).double().view(2, 4)
    wanted = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(advantages.double(), wanted.flatten(), rtol=1e-5, atol=1e-6)


def test_rloo_advantages_are_against_the_mean_of_the_others(finish: Callable[..., Run]) -> None:
    advantages = scored(finish("rloo", beta=0).trainer, GIVEN)
    groups = torch.tensor(GIVEN).double().view(2, 4)
    wanted = groups - (groups.sum(1, keepdim=True) - groups) / 3
    torch.testing.assert_close(advantages.double(), wanted.flatten(), rtol=1e-5, atol=1e-6)


def test_what_advantages_are_divided_by(finish: Callable[..., Run]) -> None:
    groups = torch.tensor(GIVEN).double().view(2, 4)
    above = (groups - groups.mean(1, keepdim=True)).flatten()
    wanted = {"none": above, "batch": above / (torch.tensor(GIVEN).double().std() + 1e-4)}
    for scale, expected in wanted.items():
        advantages = scored(finish("grpo", max_steps=1, scale_rewards=scale, overwrite_output_dir=True).trainer, GIVEN)
        torch.testing.assert_close(advantages.double(), expected, rtol=1e-5, atol=1e-6)
    normal = scored(finish("rloo", beta=0, normalize_advantages=True, overwrite_output_dir=True).trainer, GIVEN)
    assert normal.mean().item() == pytest.approx(0, abs=1e-6)
    assert normal.std().item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_how_far_a_ratio_counts(finish: Callable[..., Run], stage: str) -> None:
    """The second pass over the same answers is by another policy; a bound on one side clips on that side alone."""
    passes = {"beta": 0, "num_iterations": 2, "learning_rate": 1e-4, "overwrite_output_dir": True}
    clipped = {}
    for name, bounds in {
        "wide": {"epsilon": 0.9999, "epsilon_high": 1e6},
        "narrow": {"epsilon": 1e-7},
        "above": {"epsilon": 0.9999, "epsilon_high": 1e-7},
    }.items():
        _, second = rows(finish(stage, **passes, **bounds))
        clipped[name] = second["clip_ratio/region_mean"]
    assert clipped["wide"] == 0 < clipped["above"] < clipped["narrow"]


def test_answers_that_were_cut_off_may_teach_nothing(finish: Callable[..., Run]) -> None:
    for masked in (False, True):
        keys = {"max_steps": 1, "max_new_tokens": 40, "mask_truncated_completions": masked}
        trainer = finish("grpo", **keys, overwrite_output_dir=True).trainer
        drawn = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 16)
        ends = torch.tensor([*trainer.eos_token_ids, trainer.processing_class.pad_token_id])  # what follows an end
        ended = torch.isin(drawn["completion_ids"][:, -1], ends)
        assert 0 < ended.sum() < 16
        assert torch.equal(drawn["completion_mask"].any(1), ended | (not masked))


def test_the_losses_of_grpo_weigh_tokens_in_their_own_ways(finish: Callable[..., Run]) -> None:
    """Of two answers, one of eight tokens and one of two: the mean over tokens, over answers, by the longest length."""
    found = {}
    for kind in ("bnpo", "grpo", "dr_grpo"):
        trainer = finish("grpo", max_steps=1, loss_type=kind, beta=0, overwrite_output_dir=True).trainer
        trainer.model.eval()
        asked = [trainer.train_dataset[0]] * 4
        inputs = trainer._generate_and_score_completions(asked)
        inputs["completion_mask"][1:, 2:] = 0
        inputs["advantages"] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        trainer.current_gradient_accumulation_steps = 1
        found[kind] = trainer.compute_loss(trainer.model, inputs).item()
    tokens = inputs["completion_mask"].sum().item()
    assert found["bnpo"] == pytest.approx(-8 / tokens, rel=1e-4)
    assert found["grpo"] == pytest.approx(-1 / 4, rel=1e-4)
    assert found["dr_grpo"] == pytest.approx(-8 / (4 * 8), rel=1e-4)


def test_evaluation_may_draw_fewer_answers(finish: Callable[..., Run], keys: dict[str, Any]) -> None:
    more = {"eval_dataset": keys["dataset"], "max_steps": 1, "num_generations_eval": 2}
    finished = finish("grpo", **more)
    assert finished.trainer.num_generations_eval == 2
    assert "eval_reward" in rows(finished, "final")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_the_reward_rises(finish: Callable[..., Run], keys: dict[str, Any], stage: str) -> None:
    own = {"finetuning_type": "full", "max_steps": 12, "per_device_train_batch_size": 16, "num_generations": 8}
    finished = finish(stage, **own, beta=0, eval_dataset=keys["dataset"], eval_on_start=True)
    final = rows(finished, "final")[0]
    assert final["eval_reward"] > 2 * final["eval_reward_before"]
    rewards = [row["reward"] for row in rows(finished)]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])
    assert not [name for name in rows(finished)[0] if name.startswith("rewards/")]


def test_evaluation_takes_nothing_from_training(
    finish: Callable[..., Run], keys: dict[str, Any], tmp_path: Path
) -> None:
    plain = finish("grpo")
    evaluated = finish(
        "grpo",
        output_dir=tmp_path / "evaluated",
        eval_dataset=keys["dataset"],
        eval_on_start=True,
        eval_steps=1,
        eval_strategy="steps",
    )
    assert [row["loss"] for row in rows(plain)] == [row["loss"] for row in rows(evaluated)]


@pytest.mark.parametrize("stage", STAGES)
def test_prompts_are_the_tokens_of_the_data(finish: Callable[..., Run], stage: str) -> None:
    trainer = finish(stage).trainer
    row = trainer.train_dataset[0]
    drawn = trainer._generate_and_score_completions([row] * 4)
    assert drawn["prompt_ids"].tolist() == [row["prompt_ids"]] * 4


# ---- the reference: the policy before its first step --------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_reference_is_the_policy_before_its_first_step(
    finish: Callable[..., Run], tmp_path: Path, stage: str, tuning: str
) -> None:
    """With a continued adapter that is the adapter as it was, and in full tuning the weights as they were."""
    own = {"finetuning_type": tuning}
    earlier: dict[str, Any] = {}
    if tuning == "lora":
        finish(stage, **own, beta=0, output_dir=tmp_path / "earlier")
        earlier = {"adapter_name_or_path": tmp_path / "earlier"}
    finished = finish(stage, **own, **earlier, beta=0.1, max_steps=3, learning_rate=5e-2)
    divergence = [row["kl"] for row in rows(finished)]
    assert divergence[0] == pytest.approx(0, abs=1e-7)
    assert abs(divergence[-1]) > 1e-4
    files = {path.name for path in finished.output_dir.iterdir()}
    assert "ref" not in files, "TRL's copy of the adapter is not part of the model"


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_killed_and_resumed_it_is_bit_identical(keys: dict[str, Any], tmp_path: Path, stage: str) -> None:
    """In the second epoch, half-way through the answers of a draw: eight steps are an epoch, and four a draw."""
    own = {"stage": stage, "beta": 0.1, "save_steps": 1, "max_steps": 14, "num_generations": 2}
    runs = Runs({**keys, **own, "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2})
    whole = runs({"output_dir": tmp_path / "whole"})
    assert whole.exits == (0,), whole.output
    killed = runs({"output_dir": tmp_path / "killed"}, kill_after=10)
    assert killed.exits == (-signal.SIGKILL,), killed.output
    resumed = runs({"output_dir": tmp_path / "killed", "resume_from_checkpoint": True})
    assert resumed.exits == (0,), resumed.output
    for name in ("loss", "reward", "kl"):
        assert resumed.series(name) == whole.series(name)
    tensors, others = whole.tensors(), resumed.tensors()
    assert tensors.keys() == others.keys() != set()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in others.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_share_a_group(keys: dict[str, Any], tmp_path: Path, stage: str) -> None:
    runs = Runs({**keys, "stage": stage, "beta": 0.1, "per_device_train_batch_size": 2, "max_steps": 3})
    two = runs({"output_dir": tmp_path / "two"}, processes=2)
    assert two.exits == (0, 0), two.output
    assert len(two.series("reward")) == 3


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_nothing_is_told_to_anyone(finish: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *args, **kwargs: told.append(args))
    finish(stage="grpo", max_steps=1)
    assert told == []


def test_too_few_prompts(finish: Callable[..., Run]) -> None:
    with pytest.raises(DataError, match="8 prompts are too few: 16 are answered at a time"):
        finish("grpo", per_device_train_batch_size=64)


def test_prompts_that_fill_no_batch_are_said(finish: Callable[..., Run]) -> None:
    finished = finish("grpo", per_device_train_batch_size=12)
    assert any(line.startswith("2 of 8 prompts, different ones each time, are left out") for line in finished.decisions)


def test_a_reward_that_is_no_number_is_not_passed_over() -> None:
    from ft_plugins.stages._rewards import Reward
    from ft_plugins.stages._trainers.group import rewarding

    rewards = rewarding(Reward((lambda prompts, answers: [0.5, float("nan")],)))
    with pytest.raises(TrainingError, match="the reward of an answer is nan") as caught:
        rewards(prompts=["Why?", "Why?"], completions=["So.", "No."], trainer_state=None)
    assert "No." in str(caught.value.where)
