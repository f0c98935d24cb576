"""What PPO computes of a rollout and of a step: rewards, advantages, losses, the KL coefficient. Pure functions.

Shapes: S answers, L tokens of all answers, one answer after the other; ``lengths`` holds the number of tokens of each.

References:
    PPO: Schulman et al. 2017 (arXiv:1707.06347). Advantages: Schulman et al. 2016 (arXiv:1506.02438). Rewards from a KL
    penalty and its adaptive coefficient: Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022 (arXiv:2203.02155).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Reduce = Callable[[Tensor], Tensor]

ERROR_LIMIT: Final = 0.2
"""How far one rollout may move the KL coefficient, times episodes / horizon (Ziegler et al. 2019, section 2.2)."""

SMALLEST_VARIANCE: Final = 1e-8


def alone(values: Tensor) -> Tensor:
    """The sum over the processes when there is one."""
    return values


def by_answer(values: Tensor, lengths: Sequence[int]) -> Sequence[Tensor]:
    """Values (L,) in parts, one for each answer."""
    parts: Sequence[Tensor] = torch.split_with_sizes(values, list(lengths))
    return parts


def token_rewards(log_ratio: Tensor, scores: Tensor, lengths: Sequence[int], kl_coef: float) -> Tensor:
    """-kl_coef · (log π - log reference) of each token (L,), and the score of its answer (S,) on the last one: (L,)."""
    last = torch.tensor(lengths).cumsum(0) - 1
    return (-kl_coef * log_ratio).index_add(0, last, scores.to(log_ratio))


def generalised_advantages(rewards: Tensor, values: Tensor, lengths: Sequence[int], gamma: float, lam: float) -> Tensor:
    """A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} - V_t, where nothing is expected after the last token: (L,)."""
    padded, expected = (pad_sequence(list(by_answer(each, lengths)), batch_first=True) for each in (rewards, values))
    after = torch.nn.functional.pad(expected[:, 1:], (0, 1))
    deltas = padded + gamma * after - expected  # zero beyond an answer's end, so that no mask is needed
    advantages = torch.zeros_like(deltas)
    following = deltas.new_zeros(len(deltas))
    for step in reversed(range(deltas.shape[1])):
        following = advantages[:, step] = deltas[:, step] + gamma * lam * following
    return torch.cat([row[:length] for row, length in zip(advantages, lengths, strict=True)])


def whiten(values: Tensor, *, shift: bool = True, over_processes: Reduce = alone) -> Tensor:
    """Values (L,) at unit variance and, with ``shift``, mean 0; the statistics are those of all processes."""
    count, total = over_processes(torch.stack([values.new_tensor(float(len(values))), values.sum()]))
    mean = total / count
    variance = over_processes((values - mean).square().sum()) / count
    scaled: Tensor = (values - mean) * (variance + SMALLEST_VARIANCE).rsqrt()
    return scaled if shift else scaled + mean


def policy_losses(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """max(-A·ρ, -A·clip(ρ, 1 - clip, 1 + clip)) of each token with ρ = π / π_old, and whether the clipped one counts.

    All of shape (L,).
    """
    ratio = (log_probs - old).exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½ max((V - R)², (V_clipped - R)²) of each token, where V_clipped stays within ``clip`` of the old value: (L,)."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def next_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """The coefficient after a rollout of ``episodes`` answers whose mean KL, summed over tokens, was ``kl``."""
    error = min(max(kl / target - 1, -ERROR_LIMIT), ERROR_LIMIT)
    return kl_coef * (1 + error * episodes / horizon)


@dataclass(frozen=True)
class Moments:
    """Mean and squared deviations of all scores so far (Chan et al. 1979: statistics of parts merge exactly)."""

    count: float = 0.0
    mean: float = 0.0
    deviations: float = 0.0

    def updated(self, scores: Tensor, over_processes: Reduce = alone) -> Moments:
        """With the scores (S,) of every process."""
        scores = scores.double()
        new, total = over_processes(torch.stack([scores.new_tensor(float(len(scores))), scores.sum()])).tolist()
        mean = total / new
        deviations = float(over_processes((scores - mean).square().sum()))
        count, apart = self.count + new, mean - self.mean
        return Moments(
            count, self.mean + apart * new / count, self.deviations + deviations + apart**2 * self.count * new / count
        )

    def normalised(self, scores: Tensor) -> Tensor:
        """Scores less the mean, over the standard deviation; over 1 as long as all scores have been equal."""
        variance = self.deviations / max(self.count - 1, 1)
        return (scores - self.mean) / (variance**0.5 if variance > SMALLEST_VARIANCE else 1.0)
