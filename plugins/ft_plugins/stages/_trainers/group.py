"""TRL's trainers for groups of answers, as trainers of a run.

TRL's are the sampling, the advantages and the losses. Replaced are the tokens of a prompt (they are those of the data,
not tokenised anew), the reference (the policy as it was before its first step, whatever trains of it), the checkpoints
(which here hold the answers drawn so far, so that resuming is exact), the order of prompts (which depends on the epoch
alone) and the random numbers of an evaluation (the same each time, and none of training's).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import RepeatSampler

from ft.errors import ConfigError, DataError
from ft.training import Reference, parameter_groups, training_arguments
from ft.training.arguments import refused, use_one_gpu
from ft.training.base import RunTrainer, eval_dataset
from ft_plugins.stages._rewards import RewardOptions, reward_for
from ft_plugins.stages._rollouts import answer_settings, rollout_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from torch import nn
    from transformers import TrainerCallback, TrainingArguments

    from ft_hookspecs import Run
    from ft_plugins.stages._group import GroupOptions
    from ft_plugins.stages._rewards import Reward


SHOWN: Final = {
    *("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "clip_ratio/region_mean"),
    *("completions/mean_length", "completions/clipped_ratio"),
}
"""The metrics of TRL that are logged. It has 20 more: extremes of these, and shares of what a reward is a sum of."""


class EpochSampler(RepeatSampler):  # type: ignore[misc]  # trl ships no types
    """TRL's order of prompts, drawn anew for each epoch from the seed and its number: a resumed epoch is the same."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class GroupTrainer(RunTrainer):
    """What stands before a trainer of TRL, whose arguments are a ``config``.

    Args:
        beta: weight of the divergence from the policy as it was before its first step; TRL itself must see none, or it
            would load or copy a reference of its own.
        stop: texts that end an answer.
        kwargs: of TRL's trainer, and of :class:`~ft.training.base.RunTrainer`.
    """

    config: ClassVar[type[TrainingArguments]]
    eos_token_ids: list[int]

    def __init__(self, *, model: nn.Module, beta: float, stop: Sequence[str], **kwargs: Any) -> None:
        before = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]

        self.reference = Reference.of_start(model) if beta else None
        super().__init__(model=model, **kwargs)
        for weight, data in before:
            weight.data = data  # TRL rounds those of a quantised model to bf16
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")  # type: ignore[operator]  # PEFT's; TRL's own copy, which would be saved too
        self.beta, self.ref_model = beta, self.reference
        self._end_at(stop)

    def _send_telemetry(self) -> None:
        """Nothing is told to anyone: TRL's trainers report their use to the hub."""

    def _end_at(self, stop: Sequence[str]) -> None:
        """Let the template's end of a turn end an answer, besides the model's own tokens."""
        encoded = {text: self.processing_class(text, add_special_tokens=False)["input_ids"] for text in stop}
        if several := [text for text, ids in encoded.items() if len(ids) > 1]:
            raise ConfigError(
                f"the template ends an answer with {several[0]!r}, which is several tokens",
                why="TRL ends an answer at a single token",
                remedy="choose the template that the tokenizer itself has, or stage: ppo",
            )
        self.eos_token_ids = sorted({*self.eos_token_ids, *(ids[0] for ids in encoded.values())})
        self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = self.eos_token_ids

    @classmethod
    def for_run(cls, run: Run, callbacks: Sequence[TrainerCallback], options: GroupOptions) -> Self:
        """The trainer of a run whose model is adapted and has not trained.

        Raises:
            ConfigError: TRL refuses the keys, or nothing gives a reward.
            DataError: there are fewer prompts than one batch takes.
        """
        assert run.model is not None
        assert run.template is not None
        args = arguments(run, cls.config, options)
        use_one_gpu(args, run.decide)
        check_prompts(run, args)
        rewards = rewarding(reward_for(run))
        with refused(f"{cls.__name__} of these keys"):
            return cls(
                model=run.model,
                beta=options.beta,
                stop=run.template.stop,
                reward_funcs=rewards,
                args=args,
                train_dataset=run.train_dataset,
                eval_dataset=eval_dataset(run),
                processing_class=run.tokenizer,
                callbacks=list(callbacks),
                optimizer_factory=run.make_optimizer,
                parameter_groups=partial(parameter_groups, run),
            )

    # ---- answers

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._prompt_ids = [row["prompt_ids"] for row in inputs]
        answers: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return answers

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Those of the data: the rendered text already holds its special tokens."""
        return self._prompt_ids, None, {}

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        log_probs = super()._get_per_token_logps_and_entropies
        if model is not self.reference:
            return log_probs(model, *args, **kwargs)
        with self.reference.applied() as reference:
            return log_probs(reference, *args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        repeated = self.num_iterations * self.args.steps_per_generation
        prompts = self.args.generation_batch_size // self.num_generations
        data = self.train_dataset if dataset is None else dataset
        return EpochSampler(data, self.num_generations, prompts, repeated, self.shuffle_dataset, self.args.seed)

    # ---- evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As TRL's, with the same random numbers each time, so that rewards before and after can be compared."""
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed + self.args.process_index)
            return super().evaluate(*args, **kwargs)  # type: ignore[no-any-return]  # untyped base

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for metrics in self._metrics.values():
            for name in metrics.keys() - SHOWN:
                del metrics[name]
        if "loss" in logs:
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, start_time)

    # ---- checkpoints

    def stage_state(self) -> dict[str, Any]:
        """The answers that are still to be learned from, and the metrics that are not logged yet."""
        between = self._step % (self.args.steps_per_generation * self.num_iterations)
        drawn = self._buffered_inputs if between else None
        return {"step": self._step, "drawn": drawn, "metrics": dict(self._metrics["train"])}

    def restore_stage_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._buffered_inputs = self._prepare_input(state["drawn"])
        self._metrics["train"].update(state["metrics"])


class GrpoTrainer(GroupTrainer, GRPOTrainer):  # type: ignore[misc]  # trl ships no types
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    config = GRPOConfig


class RlooTrainer(GroupTrainer, RLOOTrainer):  # type: ignore[misc]  # trl ships no types
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740)."""

    config = RLOOConfig


def arguments(run: Run, kind: type[TrainingArguments], options: GroupOptions) -> Any:
    """TRL's arguments: the run's, the stage's own, and how answers are drawn."""
    drawn = rollout_settings(run, answer_settings(run))
    own = options.model_dump(exclude={"beta", *RewardOptions.model_fields})
    return training_arguments(
        run,
        kind,
        **own,
        beta=0.0,  # the trainer's own reference
        max_completion_length=drawn["max_new_tokens"],
        shuffle_dataset=not run.plan.get("disable_shuffling"),
        **{name: drawn[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty")},
    )


def check_prompts(run: Run, args: Any) -> None:
    """Say how many prompts do not fill a last batch and are left out of each epoch.

    Raises:
        DataError: there are fewer prompts than one batch takes.
    """
    prompts, batch = len(run.train_dataset or ()), args.generation_batch_size // args.num_generations
    if prompts < batch:
        raise DataError(
            f"{prompts} prompts are too few: {batch} are answered at a time",
            why=f"{args.generation_batch_size} answers are drawn at a time, {args.num_generations} to each prompt",
            remedy="give more prompts, raise num_generations, or lower per_device_train_batch_size",
        )
    if left := prompts % batch:
        run.decide(
            f"{left} of {prompts} prompts, different ones each time, are left out of an epoch: a batch has {batch}"
        )


def rewarding(reward: Reward) -> Callable[..., list[float]]:
    """As TRL calls it."""

    def rewards(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        given: list[float] = reward(prompts, completions).tolist()
        return given

    return rewards
