"""Proximal policy optimisation: raise the reward of what the model itself writes, near to a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft.options import ReferenceOptions, idle_generation_keys
from ft_hookspecs import Note, PluginOptions, Problem, hookimpl
from ft_plugins.stages import _hooks, _memory
from ft_plugins.stages._rewards import RewardOptions, reward_for, reward_problems
from ft_plugins.stages._rollouts import (
    answer_settings,
    choice_problems,
    greedy,
    rollout_settings,
    room_problems,
    unheeded_problems,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import Trainer, TrainerCallback

    from ft_hookspecs import Estimate, Plan, Run

ft_api_version = 1
ft_check_examples = _hooks.check_prompts
ft_prepare_dataset = _hooks.prepare_prompts
ft_evaluate = _hooks.evaluate

BATCH: Final = 16
"""Answers that are generated at a time."""

UNHEEDED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "num_beams": ((1,), "beams are not samples from the policy"),
    "skip_special_tokens": ((True,), "rewards are given for answers without special tokens"),
    "train_sampling_strategy": ((None, "random", "sequential"), "an answer has no length before it is written"),
    "auto_find_batch_size": ((False, None), "the answers of a rollout are counted in batches"),
    "fsdp": ((None, False, "", []), "answers are written by the whole model, on each process at its own pace"),
    "streaming": ((False, None), "prompts are shuffled and taken up again by their number"),
}
"""Keys that this stage cannot heed: the values that it can, and why no other."""


class PpoOptions(RewardOptions, ReferenceOptions):
    """Rollouts, rewards and clipping. Defaults are those of the papers that the trainer names."""

    ppo_buffer_size: int = Field(1, ge=1, description="Optimizer steps of one pass over the answers of a rollout.")
    ppo_epochs: int = Field(4, ge=1, description="Passes over the answers of a rollout.")
    ppo_target: float = Field(6.0, gt=0, description="Target of the KL to the reference, in nats per answer.")
    ppo_kl_coef: float = Field(0.2, ge=0, description="Weight of the KL penalty in the reward at the beginning.")
    ppo_horizon: float = Field(10_000, gt=0, description="Answers in which the KL weight adapts; inf: it is fixed.")
    ppo_score_norm: bool = Field(False, description="Scale scores by the mean and deviation of all scores so far.")
    ppo_whiten_rewards: bool = Field(False, description="Scale the rewards of a rollout's tokens to unit variance.")
    ppo_gamma: float = Field(1.0, ge=0, le=1, description="Discount of later rewards.")
    ppo_lambda: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation.")
    ppo_clip_range: float = Field(0.2, gt=0, description="How far the ratio of probabilities counts from 1.")
    ppo_value_clip_range: float = Field(0.2, gt=0, description="How far a value counts from that of the rollout.")
    ppo_vf_coef: float = Field(0.1, ge=0, description="Weight of the value loss.")


@hookimpl
def ft_options() -> type[PluginOptions]:
    return PpoOptions


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    yield from reward_problems(plan)
    yield from room_problems(plan)
    yield from unheeded_problems(plan, UNHEEDED)
    yield from idle_generation_keys(plan)
    if plan.get("dataloader_num_workers"):
        key = "dataloader_num_workers"
        yield Note(f"{key} has no effect: answers are written by the model that trains, in its own process", (key,))
    yield from choice_problems(plan, "an evaluation of ppo measures the reward of answers, and no loss")


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    return _memory.rollouts(plan, estimate, BATCH, packed=True)


@hookimpl
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer:
    from ft.training import reference_for
    from ft_plugins.stages._trainers.critic import begin_value_head
    from ft_plugins.stages._trainers.ppo import PpoTrainer

    assert run.template is not None
    reward, head, settings = reward_for(run), begin_value_head(run), answer_settings(run)
    return PpoTrainer.for_run(
        run,
        callbacks,
        options=run.plan.of(PpoOptions),
        head=head,
        reference=reference_for(run),
        reward=reward,
        rollout_settings=rollout_settings(run, settings),
        eval_settings=settings if run.plan.is_set("do_sample") else greedy(settings),
        stop=run.template.stop,
    )
