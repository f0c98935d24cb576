"""The packed trainer trains as a plain ``transformers.Trainer`` does, and reports what is true."""

from __future__ import annotations

import math
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from ft.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped
from ft.training import PackedTrainer, latest_checkpoint, pack, pad

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn
    from transformers import TrainingArguments

    Build = Callable[..., nn.Module]
    Arguments = Callable[..., TrainingArguments]
    Features = list[dict[str, Any]]


def rows(trainer: Trainer, key: str = "loss") -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("arch", ["llama", "mistral-sliding", "gemma2", "phi"])
def test_training_is_that_of_the_plain_trainer(
    build: Build, arguments: Arguments, features: Features, arch: str, tuning: str
) -> None:
    plain = Trainer(
        build(arch, tuning), arguments(), train_dataset=features, data_collator=lambda rows: pad(pack(rows))
    )
    plain.train()
    for batch, accumulation in ((4, 1), (1, 4)):
        shape = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        packed = PackedTrainer(build(arch, tuning), arguments(**shape), train_dataset=features)
        packed.train()
        assert packed.engine.packed == (arch != "gemma2")
        assert rows(packed) == pytest.approx(rows(plain), rel=2e-5)
        assert rows(packed, "grad_norm") == pytest.approx(rows(plain, "grad_norm"), rel=1e-4)


def test_the_evaluation_loss_is_a_mean_over_labels(build: Build, arguments: Arguments, features: Features) -> None:
    model = build().eval()
    sums, count = 0.0, 0
    for row in features:  # one at a time: no batch, no padding, no packing
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        labels[:, 0] = -100
        if (supervised := int((labels != -100).sum())) > 0:
            sums += model(tokens, labels=labels).loss.item() * supervised
            count += supervised
    for attention in ("packed", "padded"):
        for batch in (1, 3, 8):
            trainer = PackedTrainer(
                build(), arguments(per_device_eval_batch_size=batch), attention=attention, eval_dataset=features
            )
            assert trainer.evaluate()["eval_loss"] == pytest.approx(sums / count, rel=1e-5)


def test_no_logits_exist_in_evaluation(
    monkeypatch: pytest.MonkeyPatch, build: Build, arguments: Arguments, features: Features
) -> None:
    trainer = PackedTrainer(build(), arguments(), attention="packed", eval_dataset=features)
    trainer.engine.checked = True
    sizes: list[int] = []
    trainer.model.lm_head.register_forward_hook(lambda _m, _i, output: sizes.append(output.shape[-1]))
    trainer.evaluate()
    assert set(sizes) == {1}


def test_rows_count_real_tokens(build: Build, arguments: Arguments, features: Features) -> None:
    trainer = PackedTrainer(build(), arguments(max_steps=4), train_dataset=features)
    trainer.train()
    total = sum(len(row["input_ids"]) for row in features)
    assert rows(trainer, "num_input_tokens_seen")[1::2] == [total, 2 * total]
    assert all(rate > 0 for rate in rows(trainer, "tokens_per_second"))


def test_a_loss_that_is_not_a_number_is_shown(build: Build, arguments: Arguments, features: Features) -> None:
    model = build()
    model.model.norm.weight.data.fill_(float("nan"))
    trainer = PackedTrainer(model, arguments(max_steps=1), train_dataset=features)
    trainer.train()
    assert math.isnan(rows(trainer)[0])


def test_a_stage_overrides_the_loss(build: Build, arguments: Arguments, features: Features) -> None:
    class Likelihood(PackedTrainer):
        def loss(self, model: nn.Module, batch: Any, normaliser: Any) -> torch.Tensor:
            return -self.engine.log_probs(batch, model).sum() / normaliser

    results = []
    for kind in (PackedTrainer, Likelihood):
        trainer = kind(build(), arguments(), train_dataset=features)
        trainer.train()
        results.append(rows(trainer))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_an_optimizer_factory(build: Build, arguments: Arguments, features: Features) -> None:
    made: list[torch.optim.Optimizer] = []

    def factory(model: nn.Module) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(model.parameters(), lr=0.1))
        return made[0]

    trainer = PackedTrainer(build(), arguments(), train_dataset=features, optimizer_factory=factory)
    trainer.train()
    assert trainer.optimizer.optimizer is made[0]
    declined = PackedTrainer(build(), arguments(), train_dataset=features, optimizer_factory=lambda _: None)
    assert isinstance(declined.create_optimizer(), torch.optim.AdamW)


def test_compiling_takes_the_padded_step(build: Build, arguments: Arguments) -> None:
    decisions: list[str] = []
    trainer = PackedTrainer(build(), arguments(torch_compile=True), decide=decisions.append)
    assert not trainer.engine.packed
    assert "torch_compile" in decisions[0]


# ---- signals


class Kill(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at = number, at
        self.saves = 0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saves += 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_TERMINATED), (signal.SIGINT, EXIT_INTERRUPTED)])
@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_saves_and_stops(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path, number: int, code: int, at: int
) -> None:
    before = signal.getsignal(number)
    kill = Kill(number, at)
    trainer = PackedTrainer(build(), arguments(), train_dataset=features, callbacks=[kill])
    with pytest.raises(Stopped) as caught:
        trainer.train()
    assert caught.value.exit_code == code
    assert kill.saves == 1  # within the loop, before a best model could be put in the place of this one
    assert latest_checkpoint(tmp_path / "out") == tmp_path / "out" / f"checkpoint-{at + 1}"
    assert signal.getsignal(number) is before


class KillAtTheEnd(TrainerCallback):
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_after_the_last_step_saves_too(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path
) -> None:
    trainer = PackedTrainer(build(), arguments(), train_dataset=features, callbacks=[KillAtTheEnd()])
    with pytest.raises(Stopped):
        trainer.train()
    assert latest_checkpoint(tmp_path / "out") == tmp_path / "out" / "checkpoint-3"


def test_a_second_interrupt_leaves_at_once(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path
) -> None:
    twice = [Kill(signal.SIGINT, 1), Kill(signal.SIGINT, 1)]
    trainer = PackedTrainer(build(), arguments(), train_dataset=features, callbacks=twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert latest_checkpoint(tmp_path / "out") is None


# ---- two processes


def train_one(rank: int, world: int, port: int, folder: str) -> None:
    """One process of a gloo group, or the whole of a single one; writes losses, evaluation and weights."""
    from transformers import TrainingArguments

    from ft.testing import tiny_model

    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    draw = torch.Generator().manual_seed(0)
    data = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (23, 7, 41, 3, 30, 12, 5, 19, 8)]
    features = [{"input_ids": row, "labels": row} for row in data]
    args = TrainingArguments(
        output_dir=f"{folder}/{world}",
        per_device_train_batch_size=4 // world,
        per_device_eval_batch_size=2,
        max_steps=2,
        logging_steps=1,
        learning_rate=1e-2,
        optim="sgd",  # AdamW divides gradients that are almost zero by themselves, and their rounding becomes a step
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )
    trainer = PackedTrainer(tiny_model().train(), args, train_dataset=features, eval_dataset=features)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    if rank == 0:
        result = {"loss": rows(trainer), "eval": loss, "tokens": rows(trainer, "num_input_tokens_seen")}
        torch.save((result, weights(trainer)), f"{folder}/{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    import socket

    import torch.multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    for world in (1, 2):
        group = [context.Process(target=train_one, args=(rank, world, port, str(tmp_path))) for rank in range(world)]
        for process in group:
            process.start()
        for process in group:
            process.join(120)
            assert process.exitcode == 0
    (one, one_weights), (two, two_weights) = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["eval"] == pytest.approx(one["eval"], rel=1e-5)
    assert two["tokens"] == one["tokens"]
    for name, value in one_weights.items():
        torch.testing.assert_close(two_weights[name.removeprefix("module.")], value, rtol=1e-4, atol=1e-5)
    assert latest_checkpoint(tmp_path / "2") == tmp_path / "2" / "checkpoint-2"


def test_a_mean_with_its_standard_error(arguments: Any, build: Any, features: Any) -> None:
    class WithError(PackedTrainer):
        with_error = frozenset({"length"})

        def measure(self, model: Any, batch: Any) -> Any:
            lengths = batch["cu_seqlens"].diff().float()
            return {"length": (lengths, torch.ones_like(lengths))}

    trainer = WithError(build(), arguments(per_device_eval_batch_size=3), eval_dataset=features)
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features]).double()
    measured = trainer.evaluate()
    assert measured["eval_length"] == pytest.approx(lengths.mean().item())
    assert measured["eval_length_std_error"] == pytest.approx((lengths.std() / len(lengths) ** 0.5).item())
