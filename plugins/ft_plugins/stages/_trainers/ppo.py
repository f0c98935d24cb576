"""The trainer of ``stage: ppo``: transformers' loop over micro-batches of rollouts by the policy that it trains.

Shapes: S answers of a rollout of this process, L tokens of all of them; in a loss, L those of the micro-batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ft.data import IGNORE
from ft.training import PackedTrainer, pack
from ft_plugins.stages._trainers.ppo_math import (
    Moments,
    by_answer,
    generalised_advantages,
    next_kl_coef,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)
from ft_plugins.stages._trainers.rollout import Actor, Schedule, answered, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from ft.training import PackedBatch, Reference
    from ft.training.measures import Measure
    from ft_plugins.stages._trainers.rollout import Experience, Reward
    from ft_plugins.stages.ppo import PpoOptions

COLUMNS = ("old_log_probs", "old_values", "advantages", "returns")
"""What a rollout knows of each token of an answer, in the order of the labels."""


@dataclass
class Progress:
    """What a resumed run must know besides weights and optimizer: the rollout in use and what outlives it.

    Attributes:
        rollout: number of the one in use; -1 before the first.
        position: micro-batches of it that have been handed out.
        features: S answers with :data:`COLUMNS`.
        metrics: name → sum and number of items, of this process.
        kl_coef: of the next rollout.
        scores: moments of all scores so far, of all processes.
    """

    kl_coef: float
    rollout: int = -1
    position: int = 0
    features: list[dict[str, Tensor]] = field(default_factory=list)
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    scores: Moments = field(default_factory=Moments)


class PpoTrainer(PackedTrainer):
    """Proximal policy optimisation of a language model (references: :mod:`ppo_math`).

    The data loader's batches are micro-batches of the rollout in use; when it is used up, the policy as it then is
    makes the next one. Everything else is transformers' loop.

    Args:
        options: the stage's keys.
        head: the value head of the model.
        reference: what the policy shall stay near to.
        reward: of texts of prompts and answers, (S,).
        rollout_settings: generation settings of rollouts.
        eval_settings: generation settings of evaluation.
        stop: texts that end an answer.
        args, kwargs: as for :class:`PackedTrainer`.
    """

    with_error = frozenset({"reward"})

    def __init__(
        self,
        *args: Any,
        options: PpoOptions,
        head: nn.Module,
        reference: Reference,
        reward: Reward,
        rollout_settings: Mapping[str, Any],
        eval_settings: Mapping[str, Any],
        stop: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.options = options
        self.head = head
        self.actor = Actor(self, head, reference, reward, stop)
        self.rollout_settings, self.eval_settings = rollout_settings, eval_settings
        self.progress = Progress(options.ppo_kl_coef)

    # ---- rollouts

    def get_train_dataloader(self) -> DataLoader[PackedBatch]:
        """Batches in the order of learning. Made without accelerate, whose loader fetches a batch too early."""
        self.schedule = Schedule(
            prompts=len(self.train_dataset),
            batch=self.args.per_device_train_batch_size,
            parts=self.args.gradient_accumulation_steps * self.options.ppo_buffer_size,
            passes=self.options.ppo_epochs,
            process=self.args.process_index,
            processes=self.args.world_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            shuffled=self.args.train_sampling_strategy != "sequential",
        )
        samples = self.schedule.rollouts * self.schedule.passes * self.schedule.answers
        return DataLoader(range(samples), batch_size=self.schedule.batch, collate_fn=self.next_micro_batch)  # type: ignore[arg-type]  # a range is a data set

    def next_micro_batch(self, _: object) -> PackedBatch:
        """The next answers to learn, after a new rollout when this one is used up."""
        progress = self.progress
        if progress.rollout < 0 or progress.position == self.schedule.micro_batches:
            self.roll_out(progress.rollout + 1)
        places = self.schedule.micro_batch(progress.rollout, progress.position)
        progress.position += 1
        return pack_answers([progress.features[place] for place in places])

    def roll_out(self, number: int) -> None:
        """Let the policy answer the next prompts, and keep what is to be learned of the answers."""
        rows = [self.train_dataset[place] for place in self.schedule.rows(number)]
        with self.throughput.paused(), seeded(self.schedule.draws(number), self.args.device):
            experience = self.actor.act(rows, self.rollout_settings)
        self.progress.rollout, self.progress.position = number, 0
        self.progress.metrics = self.metrics_of(experience)
        self.progress.features = self.learnable(experience)
        self.adapt_kl_coef(experience)

    def learnable(self, experience: Experience) -> list[dict[str, Tensor]]:
        """The answers as features, each with :data:`COLUMNS`."""
        options, lengths, scores = self.options, experience.lengths, experience.scores
        if options.ppo_score_norm:
            self.progress.scores = self.progress.scores.updated(scores, self.sum_over_processes)
            scores = self.progress.scores.normalised(scores)
        rewards = token_rewards(experience.log_ratio, scores, lengths, self.progress.kl_coef)
        if options.ppo_whiten_rewards:
            rewards = whiten(rewards, shift=False, over_processes=self.sum_over_processes)
        advantages = generalised_advantages(rewards, experience.values, lengths, options.ppo_gamma, options.ppo_lambda)
        returns = advantages + experience.values
        advantages = whiten(advantages, over_processes=self.sum_over_processes)
        known = (experience.log_probs, experience.values, advantages, returns)
        columns = zip(*(by_answer(values, lengths) for values in known), strict=True)
        asked = zip(experience.prompts, experience.answers, columns, strict=True)
        return [answered(prompt, answer) | dict(zip(COLUMNS, values, strict=True)) for prompt, answer, values in asked]

    def metrics_of(self, experience: Experience) -> dict[str, tuple[float, float]]:
        """Sums over this process's answers, and their numbers."""
        answers, tokens = len(experience.answers), sum(experience.lengths)
        return {
            "reward": (float(experience.scores.sum()), answers),
            "kl": (float(experience.kl.sum()), answers),
            "kl_coef": (self.progress.kl_coef, 1),
            "response_length": (tokens, answers),
            "truncated": (float(experience.truncated.sum()), answers),
            "generated_tokens_per_second": (tokens, experience.seconds / self.args.world_size),
        }

    def adapt_kl_coef(self, experience: Experience) -> None:
        """Move the coefficient towards the KL that ``ppo_target`` asks for."""
        sums = torch.stack([experience.kl.sum(), torch.tensor(float(len(experience.answers)))])
        total, answers = self.sum_over_processes(sums).tolist()
        self.progress.kl_coef = next_kl_coef(
            self.progress.kl_coef, total / answers, self.options.ppo_target, int(answers), self.options.ppo_horizon
        )

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor over all processes, on the CPU."""
        return self._over_processes(values.to(self.args.device)).cpu()

    # ---- a step

    def loss(self, model: nn.Module, batch: Any, normaliser: Tensor | float) -> Tensor:
        """The clipped losses of policy and values, summed over the tokens of the answers."""
        old_log_probs, old_values, advantages, returns = (batch[name] for name in COLUMNS)
        log_probs, values, entropy = self.engine.values(batch, self.head, model)
        policy, clipped = policy_losses(log_probs, old_log_probs, advantages, self.options.ppo_clip_range)
        value = value_losses(values, old_values, returns, self.options.ppo_value_clip_range)
        noted = {"policy_loss": policy, "value_loss": value, "entropy": entropy, "clip_fraction": clipped}
        for name, each in noted.items():
            self.averages.add(name, each)
        for name, (total, items) in self.progress.metrics.items():
            self.averages.add(name, torch.tensor(total, device=value.device), items)
        return (policy + self.options.ppo_vf_coef * value).sum() / normaliser

    # ---- evaluation

    def collate(self, features: Sequence[Mapping[str, Any]]) -> PackedBatch:
        """Prompts of the evaluation data: the row of their tokens, and the rows themselves."""
        prompts = [{"input_ids": row["prompt_ids"], "labels": [IGNORE] * len(row["prompt_ids"])} for row in features]
        return cast("PackedBatch", {**pack(prompts), "asked": list(features)})

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Measure]:
        """Of each prompt's answer its reward, its KL to the reference and its length in tokens."""
        experience = self.actor.act(batch["asked"], self.eval_settings)
        lengths = torch.tensor(experience.lengths, dtype=torch.float32)
        found = {"reward": experience.scores, "kl": experience.kl, "response_length": lengths}
        measured = {name: values.to(self.args.device) for name, values in found.items()}
        return {name: (values, torch.ones_like(values)) for name, values in measured.items()}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with seeded(self.args.seed, self.args.device):
            return super().evaluate(*args, **kwargs)

    # ---- checkpoints

    def stage_state(self) -> dict[str, Any]:
        return asdict(self.progress)

    def restore_stage_state(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**{**state, "scores": Moments(**state["scores"])})


def pack_answers(features: Sequence[Mapping[str, Tensor]]) -> PackedBatch:
    """Answers as one row, with :data:`COLUMNS` (L,) in the order of the labels."""
    columns = {name: torch.cat([feature[name] for feature in features]) for name in COLUMNS}
    return cast("PackedBatch", {**pack(features), **columns})
