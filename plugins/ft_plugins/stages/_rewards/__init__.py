"""What an answer is worth, for the stages that learn from rewards: a reward model, a server, plugins, or their sum.

A stage's options inherit from :class:`RewardOptions`; its ``ft_check`` yields :func:`reward_problems`; its trainer
calls what :func:`reward_for` returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.errors import PluginError, TrainingError
from ft_plugins.stages._rewards.checks import reward_problems
from ft_plugins.stages._rewards.options import RewardOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ft_hookspecs import PluginInfo, Run

    Score = Callable[[list[str], list[str]], Sequence[float]]

__all__ = ["Reward", "RewardOptions", "reward_for", "reward_problems"]


@dataclass(frozen=True)
class Reward:
    """The sum of what each of ``sources`` gives."""

    sources: tuple[Score, ...]

    def __call__(self, prompts: list[str], answers: list[str]) -> Tensor:
        """The rewards (n,), fp32 on the CPU.

        Args:
            prompts: rendered texts, each ending where its answer begins.
            answers: texts without special tokens; a reward model reads them with the end of turn of the template.

        Raises:
            TrainingError: a reward server is at fault, or a reward is no finite number.
            PluginError: a plugin is at fault; names it.
        """
        import torch

        given = [torch.tensor(source(prompts, answers), dtype=torch.float32) for source in self.sources]
        rewards = torch.stack(given).sum(0)
        for value, answer in zip(rewards.tolist(), answers, strict=True):
            if not math.isfinite(value):
                raise TrainingError(f"the reward of an answer is {value}", where=repr(answer[:80]))
        return rewards


def reward_for(run: Run) -> Reward:
    """What ``reward_model`` and the plugins of the run give together.

    Call it on every process, in ``ft_build_trainer``: the model is loaded and adapted, and nothing has trained.

    Raises:
        ConfigError: nothing gives a reward.
        DataError: the folder holds no reward model, or one for another base.
    """
    from ft_plugins.stages._rewards.models import reward_model_for

    model = reward_model_for(run)
    plugins = [_counted(info, rewarder) for info, rewarder in run.rewarders.items()]
    names = ([f"reward_model ({run.plan.get('reward_model_type')})"] if model else []) + [
        f"plugin {info.name}" for info in run.rewarders
    ]
    run.decide(f"an answer's reward is that of {' + '.join(names)}")
    return Reward((*([model] if model else []), *plugins))


def _counted(info: PluginInfo, rewarder: Score) -> Score:
    """A plugin's rewards, as many as there are answers."""

    def scores(prompts: list[str], answers: list[str]) -> Sequence[float]:
        given = rewarder(prompts, answers)
        if len(given) != len(answers):
            raise PluginError(
                f"plugin {info} returned {len(given)} rewards for {len(answers)} answers from ft_reward",
                where=info.value,
                why="ft_reward must return one number for each answer, in their order",
                remedy="correct the hook's return value",
            )
        return given

    return scores
