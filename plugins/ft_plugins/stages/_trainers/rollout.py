"""Rollouts: which prompts they take, the policy's answers to them, and the order in which these are learned.

Shapes: S answers of a rollout of this process, L tokens of all of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ft.data import IGNORE
from ft.data.cache import batched
from ft.training import evaluating, pack, sample
from ft.training.generation import answer_texts, end_tokens
from ft_plugins.stages._trainers.ppo_math import by_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from ft.training import PackedBatch, PackedTrainer, Reference

    Row = Mapping[str, Any]
    Reward = Callable[[list[str], list[str]], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Which prompts a rollout takes, and in which order its answers are learned: functions of seed and numbers alone.

    Whoever knows the number of a rollout and the position in it therefore goes on exactly.

    Attributes:
        prompts: rows of the data set.
        batch: answers of a micro-batch.
        parts: micro-batches of one pass over a rollout.
        passes: over each rollout.
        process: this one, of ``processes``; each has its own share of the prompts.
        seed: of both orders.
        shuffled: whether the prompts come in a new order each time round; else as they stand.
    """

    prompts: int
    batch: int
    parts: int
    passes: int
    process: int = 0
    processes: int = 1
    seed: int = 0
    shuffled: bool = True

    @property
    def answers(self) -> int:
        """S, of one process."""
        return self.batch * self.parts

    @property
    def micro_batches(self) -> int:
        """Of one rollout."""
        return self.parts * self.passes

    @property
    def rollouts(self) -> int:
        """Of one epoch: as many as take every prompt; the last one is filled up with the epoch's first prompts."""
        return ceil(self.prompts / (self.answers * self.processes))

    def rows(self, rollout: int) -> list[int]:
        """The prompts of a rollout on this process."""
        epoch, part = divmod(rollout, self.rollouts)
        order = self._order(self.prompts, epoch) if self.shuffled else range(self.prompts)
        begin = (part * self.processes + self.process) * self.answers
        return [int(order[place % self.prompts]) for place in range(begin, begin + self.answers)]

    def micro_batch(self, rollout: int, position: int) -> list[int]:
        """The answers, by their place in the rollout, that are learned at a position in it."""
        turn, part = divmod(position, self.parts)
        order = self._order(self.answers, rollout, turn, self.process)
        return [int(place) for place in order[part * self.batch : (part + 1) * self.batch]]

    def draws(self, rollout: int) -> int:
        """The seed of what a rollout draws on this process."""
        return int(np.random.SeedSequence((self.seed, rollout, self.process)).generate_state(1)[0])

    def _order(self, count: int, *numbers: int) -> Any:
        return np.random.default_rng((self.seed, *numbers)).permutation(count)


@dataclass(frozen=True)
class Experience:
    """Answers of the policy, and what policy, value head, reference and reward say of them; on the CPU, fp32.

    Attributes:
        prompts: S prompts as token ids.
        answers: S answers as token ids, with their end tokens.
        log_probs: of the policy (L,).
        values: of the value head, before each token (L,).
        reference: log-probabilities of the reference (L,).
        scores: rewards (S,).
        truncated: answers without an end, which reached the longest length (S,).
        seconds: spent on generating.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    log_probs: Tensor
    values: Tensor
    reference: Tensor
    scores: Tensor
    truncated: Tensor
    seconds: float

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [len(answer) for answer in self.answers]

    @property
    def log_ratio(self) -> Tensor:
        """The log-ratio log π - log π_reference of each token: (L,)."""
        return self.log_probs - self.reference

    @property
    def kl(self) -> Tensor:
        """The log-ratio of each answer, summed over its tokens: (S,)."""
        return torch.stack([part.sum() for part in by_answer(self.log_ratio, self.lengths)])


@dataclass(frozen=True)
class Actor:
    """Lets the policy as it is now answer prompts, and asks what the answers are worth.

    Attributes:
        trainer: its model, engine, tokenizer and number format.
        head: the value head of its model.
        reference: what the policy shall stay near to.
        reward: of texts of prompts and answers, (S,).
        stop: texts that end an answer.
    """

    trainer: PackedTrainer
    head: nn.Module
    reference: Reference
    reward: Reward
    stop: Sequence[str] = ()

    def act(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> Experience:
        """Answer the prompts of these rows (``prompt_ids``, ``prompt``); ``settings`` are those of generation."""
        model, tokenizer = self.trainer.model, self.trainer.processing_class
        prompts = [list(row["prompt_ids"]) for row in rows]
        begin = perf_counter()
        answers = sample(model, tokenizer, prompts, stop=self.stop, **settings)
        seconds = perf_counter() - begin
        log_probs, values, reference = self._judge(prompts, answers)
        return Experience(
            prompts,
            answers,
            log_probs,
            values,
            reference,
            self.reward([row["prompt"] for row in rows], answer_texts(tokenizer, answers, self.stop)),
            torch.tensor([not ended for ended in self._ended(answers)]),
            seconds,
        )

    def _ended(self, answers: list[list[int]]) -> Iterator[bool]:
        """Whether each answer came to an end token or a stop text, and not to the longest length."""
        tokenizer = self.trainer.processing_class
        ends = end_tokens(self.trainer.model, tokenizer, self.stop)
        for answer in answers:
            yield answer[-1] in ends or any(text in tokenizer.decode(answer) for text in self.stop)

    def _judge(self, prompts: list[list[int]], answers: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, values and log-probabilities of the reference: two packed forwards a batch."""
        trainer = self.trainer
        features = [answered(*pair) for pair in zip(prompts, answers, strict=True)]
        packed = [pack(part) for part in batched(features, trainer.args.per_device_train_batch_size)]
        batches: list[PackedBatch] = [trainer._prepare_inputs(batch) for batch in packed]
        with torch.no_grad(), trainer.compute_loss_context_manager(), evaluating(trainer.model):
            trainer.engine.check(batches[0])
            policy = [trainer.engine.values(batch, self.head)[:2] for batch in batches]
            with self.reference.applied() as model:
                reference = [trainer.engine.log_probs(batch, model) for batch in batches]
        log_probs, values = zip(*policy, strict=True)
        return _on_cpu(log_probs), _on_cpu(values), _on_cpu(reference)


def answered(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Tensor]:
    """A prompt and its answer as a feature whose labels are the answer's tokens."""
    labels = [*([IGNORE] * len(prompt)), *answer]
    return {"input_ids": torch.tensor([*prompt, *answer]), "labels": torch.tensor(labels)}


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from this seed for a while; what is drawn afterwards is as if nothing had been drawn inside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _on_cpu(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)).float().cpu()
