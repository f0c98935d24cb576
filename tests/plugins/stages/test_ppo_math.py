"""PPO's mathematics in float64 against formulas written out with loops, and gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ft_plugins.stages._trainers.ppo_math import (
    Moments,
    generalised_advantages,
    next_kl_coef,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)

LENGTHS = (4, 1, 7, 2)
TOKENS = sum(LENGTHS)


def draw(seed: int, count: int = TOKENS) -> Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def answers(values: Tensor) -> list[list[float]]:
    return [part.tolist() for part in values.split(LENGTHS)]


def test_rewards_are_the_penalty_of_each_token_and_the_score_at_the_last() -> None:
    log_ratio, scores = draw(0), draw(1, len(LENGTHS))
    expected = []
    for ratios, score in zip(answers(log_ratio), scores.tolist(), strict=True):
        expected += [-0.3 * ratio for ratio in ratios[:-1]] + [-0.3 * ratios[-1] + score]
    assert token_rewards(log_ratio, scores, LENGTHS, 0.3).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_double_sum_of_the_paper(gamma: float, lam: float) -> None:
    rewards, values = draw(2), draw(3)
    expected = []
    for reward, value in zip(answers(rewards), answers(values), strict=True):
        ahead = [*value[1:], 0.0]
        deltas = [r + gamma * a - v for r, a, v in zip(reward, ahead, value, strict=True)]
        expected += [
            sum((gamma * lam) ** (later - now) * deltas[later] for later in range(now, len(deltas)))
            for now in range(len(deltas))
        ]
    assert generalised_advantages(rewards, values, LENGTHS, gamma, lam).tolist() == pytest.approx(expected, rel=1e-10)


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    rewards, values = draw(2), draw(3)
    together = generalised_advantages(rewards, values, LENGTHS, 1.0, 0.95).split(LENGTHS)
    for index, (reward, value) in enumerate(zip(rewards.split(LENGTHS), values.split(LENGTHS), strict=True)):
        alone = generalised_advantages(reward, value, [LENGTHS[index]], 1.0, 0.95)
        torch.testing.assert_close(alone, together[index], rtol=1e-12, atol=0)


def test_whitening() -> None:
    values = 3 + 5 * draw(4)
    white = whiten(values)
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.var(correction=0).item() == pytest.approx(1, rel=1e-8)
    kept = whiten(values, shift=False)
    assert kept.mean().item() == pytest.approx(values.mean().item(), rel=1e-12)
    assert kept.var(correction=0).item() == pytest.approx(1, rel=1e-8)
    assert whiten(torch.full((3,), 2.0)).tolist() == [0, 0, 0]  # no variance: no division by zero


def test_statistics_are_those_of_all_processes() -> None:
    values = 3 + 5 * draw(4)
    here, there = values[:5], values[5:]

    class OtherProcess:
        """Adds what the process with the other values would."""

        def __init__(self) -> None:
            self.mean = values.mean()
            self.calls = 0

        def __call__(self, own: Tensor) -> Tensor:
            self.calls += 1
            sums = torch.stack([there.new_tensor(float(len(there))), there.sum()])
            return own + (sums if self.calls == 1 else (there - self.mean).square().sum())

    torch.testing.assert_close(whiten(here, over_processes=OtherProcess()), whiten(values)[:5])
    both, whole = Moments().updated(here, OtherProcess()), Moments().updated(values)
    assert (both.count, both.mean) == pytest.approx((whole.count, whole.mean))
    assert both.deviations == pytest.approx(whole.deviations)


@pytest.mark.parametrize("clip", [0.05, 0.2])
def test_the_policy_loss_and_its_gradient(clip: float) -> None:
    old, advantages = draw(5), draw(6)
    log_probs = (old + 0.3 * draw(7)).requires_grad_()
    losses, clipped = policy_losses(log_probs, old, advantages, clip)
    expected, slopes, counted = [], [], []
    for new, before, advantage in zip(log_probs.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(new - before)
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        expected.append(-min(ratio * advantage, bounded * advantage))
        outside = (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip)
        slopes.append(0.0 if outside else -advantage * ratio)
        counted.append(outside)
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert clipped.tolist() == counted
    assert any(counted)
    assert not all(counted)
    losses.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(slopes, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: policy_losses(x, old, advantages, clip)[0], log_probs)


def test_the_value_loss_and_its_gradient() -> None:
    old, returns = draw(8), draw(9)
    values = (old + 0.5 * draw(10)).requires_grad_()
    losses = value_losses(values, old, returns, 0.2)
    expected, slopes = [], []
    for value, before, target in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        near = before + min(max(value - before, -0.2), 0.2)
        expected.append(0.5 * max((value - target) ** 2, (near - target) ** 2))
        bounded = (near - target) ** 2 > (value - target) ** 2
        slopes.append(0.0 if bounded and abs(value - before) > 0.2 else value - target)
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx(slopes, rel=1e-12)
    assert 0.0 in slopes
    assert torch.autograd.gradcheck(lambda x: value_losses(x, old, returns, 0.2), values)


def test_the_kl_coefficient_follows_the_target() -> None:
    assert next_kl_coef(0.2, kl=6, target=6, episodes=64, horizon=10_000) == 0.2
    assert next_kl_coef(0.2, kl=6.6, target=6, episodes=100, horizon=1_000) == pytest.approx(0.2 * 1.01)
    assert next_kl_coef(0.2, kl=600, target=6, episodes=100, horizon=1_000) == pytest.approx(0.2 * 1.02)
    assert next_kl_coef(0.2, kl=0, target=6, episodes=100, horizon=1_000) == pytest.approx(0.2 * 0.98)


def test_running_moments_are_those_of_all_scores() -> None:
    parts = [2 + 3 * draw(11, 5), -1 + draw(12, 1), 10 + draw(13, 8)]
    moments = Moments()
    for part in parts:
        moments = moments.updated(part)
    scores = torch.cat(parts)
    expected = (parts[2] - scores.mean()) / scores.std()
    torch.testing.assert_close(moments.normalised(parts[2]), expected, rtol=1e-12, atol=1e-12)
    equal = torch.full((4,), 7.0)
    assert Moments().updated(equal).normalised(equal).tolist() == [0, 0, 0, 0]
