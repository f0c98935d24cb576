"""What grpo and rloo have in common: several answers to each prompt, each judged against the others.

The loop, the advantages and the losses are TRL's; ft gives them its data, rewards, reference, checkpoints and record.
The hooks below are those of both stages.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from ft.devices import processes
from ft.options import idle_generation_keys
from ft_hookspecs import Problem, hookimpl
from ft_plugins.stages import _memory
from ft_plugins.stages._preference import start_problems
from ft_plugins.stages._rewards import RewardOptions, reward_problems
from ft_plugins.stages._rollouts import choice_problems, room_problems, unheeded_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Estimate, Note, Plan

REQUIRES: Final = {"trl": "pip install 'ft-framework[trl]'"}


class GroupOptions(RewardOptions):
    """How many answers are drawn and how often they are learned from; names and defaults are TRL's."""

    num_generations: int = Field(8, ge=2, description="Answers drawn for each prompt, which are judged together.")
    num_generations_eval: int | None = Field(
        None, ge=1, description="Answers for each prompt in evaluation. Unset: as in training."
    )
    steps_per_generation: int | None = Field(
        None, ge=1, description="Batches drawn at a time. Unset: `gradient_accumulation_steps`, one optimizer step."
    )
    num_iterations: int = Field(1, ge=1, description="Passes over the answers of a prompt before new ones are drawn.")
    beta: float = Field(
        0.0, ge=0, description="Weight of the KL to the model as it was before training, in the loss; 0: none."
    )
    epsilon: float = Field(0.2, gt=0, description="How far the ratio of probabilities counts from 1.")
    epsilon_high: float | None = Field(None, gt=0, description="How far the ratio counts above 1. Unset: `epsilon`.")
    mask_truncated_completions: bool = Field(
        False, description="Learn nothing from answers that `max_new_tokens` has cut off."
    )


UNHEEDED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "do_sample": ((True,), "greedy answers to one prompt are all the same, so that none is better than the others"),
    "num_beams": ((1,), "beams are not samples from the policy"),
    "max_length": ((None,), "the length of an answer is limited by max_new_tokens alone"),
    "skip_special_tokens": ((True,), "rewards are given for answers without special tokens"),
    "attention": (("auto", "padded"), "TRL pads its batches"),
    "train_sampling_strategy": ((None, "random"), "each batch holds whole groups of answers"),
    "auto_find_batch_size": ((False, None), "a smaller batch may not hold whole groups of answers"),
    "streaming": ((False, None), "prompts are repeated and shuffled by their number"),
}
"""Keys that these stages do not heed: the values that ask for nothing, and why any other is refused."""


@hookimpl
def ft_check(plan: Plan) -> Iterator[Problem | Note]:
    """What cannot be: a batch without whole groups, keys that would do nothing, a reward that nobody gives."""
    options, stage = plan.of(GroupOptions), plan.get("stage")
    yield from reward_problems(plan)
    yield from room_problems(plan)
    yield from choice_problems(plan, "the loss compares answers with each other: it is about 0 whatever they are worth")
    yield from unheeded_problems(plan, UNHEEDED)
    yield from idle_generation_keys(plan)
    if options.beta:
        yield from start_problems(plan, stage)
    accumulated = int(plan.get("gradient_accumulation_steps") or 1)
    times = options.steps_per_generation or accumulated
    name = "steps_per_generation" if options.steps_per_generation else "gradient_accumulation_steps"
    yield from whole_groups(
        plan, "per_device_train_batch_size", "num_generations", options.num_generations, times, name
    )
    if plan.get("eval_dataset") or plan.get("val_size"):
        number = options.num_generations_eval or options.num_generations
        yield from whole_groups(plan, "per_device_eval_batch_size", "num_generations_eval", number)


@hookimpl(trylast=True)
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    """TRL pads, draws all answers of its steps at once, and keeps a reference only for a KL in the loss."""
    options = plan.of(GroupOptions)
    steps = options.steps_per_generation or int(plan.get("gradient_accumulation_steps") or 1)
    drawn = int(plan.get("per_device_train_batch_size") or 8) * steps
    return _memory.rollouts(plan, estimate, drawn, packed=False, reference=options.beta > 0)


def whole_groups(
    plan: Plan, batch_key: str, group_key: str, group: int, times: int = 1, times_key: str = ""
) -> Iterator[Problem]:
    """A batch over all processes must hold whole groups; the remedy names the nearest values that do."""
    batch, parallel = int(plan.get(batch_key) or 8), processes()
    answers = batch * times * parallel
    if answers % group == 0:
        return
    step = group // gcd(group, times * parallel)
    batches = sorted({max(step, batch // step * step), (batch // step + 1) * step})
    groups = [size for size in range(2, answers + 1) if answers % size == 0]
    remedies = [f"{batch_key} to {' or '.join(map(str, batches))}"]
    if groups:
        remedies.append(f"{group_key} to {min(groups, key=lambda size: abs(size - group))}")
    factors = [f"{batch_key} {batch}", *([f"{times_key} {times}"] if times > 1 else []), f"{parallel} processes"]
    yield Problem(
        f"{answers} answers cannot be divided into groups of {group}",
        why=f"{' × '.join(factors if parallel > 1 else factors[:-1])} must be a multiple of {group_key}",
        remedy=f"set {', or '.join(remedies)}",
        keys=(batch_key, group_key),
    )
