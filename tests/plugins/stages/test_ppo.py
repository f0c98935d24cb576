"""PPO on a tiny model: what it computes, that it learns, that it resumes exactly, and that a step may be cut up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from ft.testing import tiny_model, tiny_tokenizer
from ft.training import Reference, attach_value_head, pad
from ft_plugins.stages._rollouts import greedy
from ft_plugins.stages._trainers.ppo import COLUMNS, PpoTrainer
from ft_plugins.stages._trainers.rollout import Experience
from ft_plugins.stages.ppo import PpoOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    Build = Callable[..., PpoTrainer]

DRAWN = {"max_new_tokens": 10, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
QUESTION = "<|im_start|>user\nstone {}<|im_end|>\n<|im_start|>assistant\n"


def share_of_letters(prompts: list[str], answers: list[str]) -> Tensor:
    return torch.tensor([sum(map(str.isalpha, text)) / max(1, len(text)) for text in answers])


def policy(tuning: str) -> nn.Module:
    model: nn.Module = tiny_model()
    torch.manual_seed(0)  # as a run does before anything new is added to a model
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights="gaussian"))
        draw = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=draw)
    return model.train()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": QUESTION.format(number * 7)} for number in range(12)]
    prompts = [{**row, "prompt_ids": tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]} for row in rows]

    def make(
        options: dict[str, Any] | None = None,
        *,
        tuning: str = "full",
        attention: str = "auto",
        settings: dict[str, Any] = DRAWN,
        callbacks: list[TrainerCallback] | None = None,
        **changes: Any,
    ) -> PpoTrainer:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
        }
        model = policy(tuning)
        return PpoTrainer(
            model,
            TrainingArguments(**{**values, **changes}),
            attention=attention,
            options=PpoOptions(ppo_epochs=2, **(options or {})),
            head=attach_value_head(model),
            reference=Reference.of_start(model),
            reward=share_of_letters,
            rollout_settings=settings,
            eval_settings=greedy(settings),
            stop=("<|im_end|>",),
            train_dataset=prompts,
            eval_dataset=prompts[:6],
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    return make


def series(trainer: PpoTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def weights(trainer: PpoTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


# ---- what it computes


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_on_the_first_pass_the_ratio_is_one_and_the_kl_zero(build: Build, tuning: str, attention: str) -> None:
    trainer = build({"ppo_buffer_size": 2}, tuning=tuning, attention=attention)
    trainer.get_train_dataloader()
    for _ in range(2):
        batch = trainer.next_micro_batch(None)
        log_probs, values, _ = trainer.engine.values(batch, trainer.head, trainer.model.train())
        torch.testing.assert_close(log_probs, batch["old_log_probs"], rtol=0, atol=2e-6)
        torch.testing.assert_close(values, batch["old_values"], rtol=0, atol=2e-6)
    assert trainer.progress.metrics["kl"] == (0, 8)
    trainer.train()
    assert series(trainer, "clip_fraction")[0] == 0
    assert series(trainer, "kl")[0] == 0


def test_rewards_add_up_to_the_score_less_the_penalty(build: Build) -> None:
    """With γ = λ = 1 the return of an answer's first token is all that it earned, whatever the values say."""
    trainer = build({"ppo_gamma": 1.0, "ppo_lambda": 1.0, "ppo_kl_coef": 0.3})
    draw = torch.Generator().manual_seed(0)
    lengths = (3, 1, 5)
    log_probs, values, reference = (torch.randn(9, generator=draw) for _ in range(3))
    experience = Experience(
        [[5, 6]] * 3,
        [[7] * length for length in lengths],
        log_probs,
        values,
        reference,
        torch.tensor([1.0, -2.0, 4.0]),
        torch.zeros(3),
        1.0,
    )
    features = trainer.learnable(experience)
    apart = [part.sum() for part in (log_probs - reference).split(lengths)]
    torch.testing.assert_close(experience.kl, torch.stack(apart))
    for feature, score, kl in zip(features, (1.0, -2.0, 4.0), apart, strict=True):
        assert feature["returns"][0].item() == pytest.approx(score - 0.3 * kl.item(), abs=1e-5)
    advantages = torch.cat([feature["advantages"] for feature in features])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages.var(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_scores_are_normalised_by_all_scores_so_far(build: Build) -> None:
    trainer = build({"ppo_score_norm": True, "ppo_lambda": 1.0, "ppo_kl_coef": 0.0})
    nothing = torch.zeros(3)
    for scores, expected in (([1.0, 2.0, 3.0], [-1, 0, 1]), ([5.0, 5.0, 5.0], [1.5 / 3.1**0.5] * 3)):
        parts = (nothing, nothing, nothing, torch.tensor(scores), nothing)
        features = trainer.learnable(Experience([[5]] * 3, [[7]] * 3, *parts, 1.0))
        assert [feature["returns"].item() for feature in features] == pytest.approx(expected)


def test_rewards_may_be_whitened_and_later_ones_discounted(build: Build) -> None:
    trainer = build({"ppo_whiten_rewards": True, "ppo_gamma": 0.5, "ppo_lambda": 1.0, "ppo_kl_coef": 0.3})
    draw = torch.Generator().manual_seed(0)
    log_probs, values, reference = (torch.randn(4, generator=draw) for _ in range(3))
    scores = torch.tensor([1.0, -2.0])
    given = Experience([[5]] * 2, [[7, 7], [8, 8]], log_probs, values, reference, scores, torch.zeros(2), 1.0)
    first, second = trainer.learnable(given)
    earned = -0.3 * (log_probs - reference) + torch.tensor([0, 1.0, 0, -2.0])
    earned = (earned - earned.mean()) / earned.std(correction=0) + earned.mean()
    expected = [earned[0] + 0.5 * earned[1], earned[1], earned[2] + 0.5 * earned[3], earned[3]]
    torch.testing.assert_close(torch.cat([first["returns"], second["returns"]]), torch.stack(expected))


def test_the_penalty_moves_to_its_target_within_its_horizon(build: Build) -> None:
    """A KL of 3 is 10 % above 30/11; the target of the other run is far below, whose steps are limited to 20 %."""
    nothing = torch.zeros(4)
    given = Experience([[5]] * 4, [[7]] * 4, nothing + 3, nothing, nothing, nothing, nothing, 1.0)
    for target, share in ((30 / 11, 0.1), (0.01, 0.2)):
        trainer = build({"ppo_target": target, "ppo_horizon": 50.0, "ppo_kl_coef": 0.4})
        trainer.adapt_kl_coef(given)
        assert trainer.progress.kl_coef == pytest.approx(0.4 * (1 + share * 4 / 50))


@pytest.mark.parametrize(("clip", "value_clip", "weight"), [(0.2, 0.2, 0.1), (0.05, 0.001, 0.7)])
def test_the_loss_and_its_gradient_are_the_formula(build: Build, clip: float, value_clip: float, weight: float) -> None:
    """Against float64 logits of the whole padded batch, away from the first pass; the first case is the defaults'."""
    keys = {"ppo_clip_range": clip, "ppo_value_clip_range": value_clip, "ppo_vf_coef": weight}
    trainer = build({} if weight == 0.1 else keys)
    trainer.get_train_dataloader()
    batch = trainer.next_micro_batch(None)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=draw)
    trainer.model.zero_grad()
    loss = trainer.loss(trainer.model, batch, 7.0)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    model = trainer.model.double()
    model.set_attn_implementation("eager")
    padded = pad(batch)
    labels = padded.pop("labels")[:, 1:]
    output = model(**padded, output_hidden_states=True)
    learned = labels != -100
    log_probs = output.logits[:, :-1][learned].log_softmax(-1).gather(1, labels[learned][:, None])[:, 0]
    hidden = output.hidden_states[-1][:, :-1][learned]
    values = hidden @ trainer.head.summary.weight[0] + trainer.head.summary.bias
    old_log_probs, old_values, advantages, returns = (batch[name].double() for name in COLUMNS)
    ratio = (log_probs - old_log_probs).exp()
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    policy_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).sum()
    value_loss = 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).sum()
    expected = (policy_loss + weight * value_loss) / 7
    assert (ratio - 1).abs().max() > clip
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for name, parameter in model.named_parameters():
        assert (found[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name


# ---- what it does


def test_it_learns(build: Build) -> None:
    options = {"ppo_buffer_size": 2, "ppo_kl_coef": 0.01}
    trainer = build(options, per_device_train_batch_size=32, max_steps=24, learning_rate=3e-3)
    before = trainer.evaluate()
    trainer.train()
    rewards, kl = series(trainer, "reward")[::4], series(trainer, "kl")[::4]
    error = 0.25 / math.sqrt(64)  # of a rollout's mean: the scores of its 64 answers deviate by less than 0.25
    assert rewards[-1] - rewards[0] > 3 * error
    assert kl[0] == 0
    assert kl[-1] > 1
    assert series(trainer, "value_loss")[-1] < series(trainer, "value_loss")[0]
    after = trainer.evaluate()
    assert after["eval_reward"] > before["eval_reward"]
    assert before["eval_kl"] == 0
    assert after["eval_kl"] > 0


def test_every_row_says_what_the_rollout_in_use_was(build: Build) -> None:
    trainer = build({"ppo_buffer_size": 2, "ppo_horizon": 100.0})
    trainer.train()
    first, *others = [row for row in trainer.state.log_history if "loss" in row]
    of_rollout = ("reward", "kl", "kl_coef", "response_length", "truncated", "generated_tokens_per_second")
    for name in of_rollout:
        assert [row[name] for row in others] == pytest.approx([first[name]] * 3), name
    assert first["kl_coef"] == pytest.approx(0.2)
    assert trainer.progress.kl_coef == pytest.approx(0.2 * (1 - 0.2 * 8 / 100))  # the KL is below its target
    assert 0 < first["truncated"] <= 1
    assert 0 < first["response_length"] <= 10
    assert first["entropy"] == pytest.approx(math.log(384), rel=0.1)
    assert first["tokens_per_second"] > 0


def test_steps_are_counted_before_they_are_made(build: Build) -> None:
    """12 prompts, 8 a rollout: 2 rollouts an epoch, each enough for 2 × 2 steps."""
    trainer = build({"ppo_buffer_size": 2}, max_steps=-1, num_train_epochs=2, lr_scheduler_type="linear")
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == 16
    assert trainer.progress.rollout == 3
    assert series(trainer, "learning_rate") == pytest.approx([1e-3 * (1 - step / 16) for step in range(16)])
    assert series(trainer, "epoch")[7] == 1


def test_accumulation_does_not_change_a_step(build: Build) -> None:
    results = []
    for batch, accumulation in ((4, 1), (1, 4)):
        trainer = build(
            {"ppo_buffer_size": 2}, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
        )
        trainer.train()
        results.append(series(trainer, "loss") + series(trainer, "grad_norm") + series(trainer, "reward"))
    assert results[0] == pytest.approx(results[1], rel=1e-3, abs=1e-5)


def test_evaluation_is_repeatable_and_leaves_no_trace(build: Build) -> None:
    trainer = build()
    trainer.eval_settings = DRAWN
    state = torch.get_rng_state()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    timing = ("_runtime", "_per_second", "_time")
    assert {k: v for k, v in first.items() if not k.endswith(timing)} == {
        k: v for k, v in second.items() if not k.endswith(timing)
    }
    assert {"eval_reward", "eval_reward_std_error", "eval_kl", "eval_response_length"} <= first.keys()


# ---- resuming


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_resumed_in_and_between_rollouts_it_is_bit_identical(build: Build, tmp_path: Path, at: int) -> None:
    options = {"ppo_buffer_size": 2, "ppo_score_norm": True, "ppo_horizon": 50.0}
    kept = {"max_steps": 7, "save_strategy": "steps", "save_steps": at, "tuning": "lora"}
    whole = build(options, **kept)
    whole.train()
    resumed = build(options, **kept)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{at}"))
    for name in ("loss", "grad_norm", "reward", "kl", "kl_coef", "entropy", "learning_rate", "epoch"):
        assert series(resumed, name) == series(whole, name), name
    assert resumed.progress.scores == whole.progress.scores
    assert resumed.progress.kl_coef == whole.progress.kl_coef != 0.2
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
