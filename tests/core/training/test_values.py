"""Scores and values come from the model's own forward, are exact to the gradient, and are kept beside the model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from ft.errors import DataError
from ft.testing import tiny_model
from ft.training import (
    Engine,
    PackedTrainer,
    ValueHead,
    attach_value_head,
    load_value_head,
    pack,
    per_sequence,
    save_value_head,
    value_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn
    from transformers import TrainingArguments

    Build = Callable[..., nn.Module]
    Arguments = Callable[..., TrainingArguments]
    Features = list[dict[str, Any]]

KEYS = {"v_head.summary.weight", "v_head.summary.bias"}


@pytest.fixture
def pairs() -> Features:
    draw = torch.Generator().manual_seed(3)
    tokens = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (12, 5, 9, 20, 1, 6)]
    prompts, answers = tokens[0::3], (tokens[1:3], tokens[4:6])
    return [
        {"prompt_ids": prompt, "branches": [{"input_ids": ids, "labels": ids} for ids in both]}
        for prompt, both in zip(prompts, answers, strict=True)
    ]


def with_head(build: Build, *args: Any, **config: Any) -> tuple[nn.Module, ValueHead]:
    model = build(*args, **config)
    torch.manual_seed(5)
    return model, attach_value_head(model)


def one_at_a_time(model: nn.Module, head: ValueHead, features: Features) -> list[tuple[Tensor, Tensor]]:
    """Hidden states and log-probabilities of each sequence, by transformers in float64: (N, h) and (N, V)."""
    states: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    sequences = [
        [*feature.get("prompt_ids", []), *each["input_ids"]]
        for feature in features
        for each in feature.get("branches", [feature])
    ]
    logits = [model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0] for ids in sequences]
    hook.remove()
    return [(hidden[0], rows.log_softmax(-1)) for hidden, rows in zip(states, logits, strict=True)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_close(found: nn.Module, wanted: nn.Module) -> None:
    """Every gradient to 1e-5 of its norm; one that is zero but for rounding is left out."""
    got, expected = gradients(found), gradients(wanted)
    assert {name.removeprefix("base_model.model.") for name in expected} >= KEYS
    floor = 1e-6 * max(float(gradient.norm()) for gradient in expected.values())
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + floor, name


CASES = [
    *((arch, tuning, "packed") for arch in ("llama", "gemma3", "mistral-sliding") for tuning in ("full", "lora")),
    *((arch, tuning, "padded") for arch in ("llama", "gemma2") for tuning in ("full", "lora")),
]


@pytest.mark.parametrize(("arch", "tuning", "attention"), CASES)
def test_scores_are_the_heads_of_the_last_tokens(
    build: Build, features: Features, pairs: Features, arch: str, tuning: str, attention: Any
) -> None:
    both = [*features, *pairs]
    model, head = with_head(build, arch, tuning)
    exact, exact_head = model.double(), head.double()
    expected = torch.stack([exact_head(hidden[-1]) for hidden, _ in one_at_a_time(exact, exact_head, both)])
    (expected * torch.arange(len(expected))).sum().backward()

    model, head = with_head(build, arch, tuning)
    found = Engine(model, attention).scores(pack(both), head)
    (found * torch.arange(len(found))).sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(model, exact.float())


def by_paper(model: nn.Module, head: ValueHead, features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, value and entropy at the token before each label, one sequence at a time."""
    found: list[tuple[Tensor, ...]] = []
    branches = [
        ([-100] * len(feature.get("prompt_ids", [])) + each["labels"])
        for feature in features
        for each in feature.get("branches", [feature])
    ]
    for labels, (hidden, scores) in zip(branches, one_at_a_time(model, head, features), strict=True):
        for place, label in enumerate(labels[1:]):
            if label != -100:
                row = scores[place]
                found.append((row[label], head(hidden[place]), -(row.exp() * row).sum()))
    log_probs, values, entropy = (torch.stack(each) for each in zip(*found, strict=True))
    return log_probs, values, entropy


@pytest.mark.parametrize(("arch", "tuning", "attention"), CASES)
def test_values_belong_to_the_state_that_predicts_each_label(
    monkeypatch: pytest.MonkeyPatch,
    build: Build,
    features: Features,
    pairs: Features,
    arch: str,
    tuning: str,
    attention: Any,
) -> None:
    monkeypatch.setattr("ft.training.head.CHUNK_ELEMENTS", 384 * 40)  # several chunks
    both = [*features, *pairs]
    model, head = with_head(build, arch, tuning)
    exact, exact_head = model.double(), head.double()
    expected = by_paper(exact, exact_head, both)
    model, head = with_head(build, arch, tuning)
    found = Engine(model, attention).values(pack(both), head)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not found[2].requires_grad
    for log_probs, values, _ in (expected, found):
        ((log_probs.exp() - values.square()) * torch.arange(len(values))).sum().backward()
    assert_close(model, exact.float())


def test_a_head_that_runs_its_own_code_gives_the_same(build: Build, features: Features) -> None:
    found = []
    for attention in ("packed", "padded"):
        model, head = with_head(build, "llama", "lora", targets=["q_proj", "lm_head"])
        log_probs, values, entropy = Engine(model, attention).values(pack(features), head)
        (log_probs.sum() + values.sum()).backward()
        found.append((log_probs, values, entropy, *gradients(model).values()))
    assert any("lm_head" in name for name in gradients(model))
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_the_log_probs_are_those_of_log_probs(build: Build, features: Features) -> None:
    model, head = with_head(build)
    engine = Engine(model, "packed")
    assert torch.equal(engine.values(pack(features), head)[0], engine.log_probs(pack(features)))


def test_the_model_is_as_it_was_afterwards(build: Build, features: Features) -> None:
    model, head = with_head(build, "gemma2")
    tokens = torch.tensor([[5, 6, 7]])
    before = model(tokens).logits
    engine = Engine(model, "padded")
    engine.scores(pack(features), head), engine.values(pack(features), head)
    assert torch.equal(model(tokens).logits, before)
    assert "forward" not in {**model.__dict__, **model.lm_head.__dict__}


def test_another_models_log_probs_are_its_own(build: Build, features: Features) -> None:
    lines: list[str] = []
    engine, other = Engine(build("llama"), decide=lines.append), build("qwen3").eval()
    batch = pack(features)
    engine.check(batch)
    found = engine.log_probs(batch, other)
    torch.testing.assert_close(found, Engine(build("qwen3").eval(), "padded").log_probs(batch), rtol=1e-5, atol=1e-5)
    assert [line.split(":")[0] for line in lines] == ["batches are packed", "another Qwen3ForCausalLM"]


# ---- attached, saved and loaded


def test_a_value_head_is_attached_once_and_trains(build: Build) -> None:
    for tuning in ("full", "lora"):
        model = build("llama", tuning)
        assert value_head(model) is None
        head = attach_value_head(model)
        assert attach_value_head(model) is head is value_head(model)
        trained = {
            name.removeprefix("base_model.model.") for name, each in model.named_parameters() if each.requires_grad
        }
        assert trained >= KEYS
        assert {each.dtype for each in head.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_scores_leave_out_stops_training_unless_it_is_tied(build: Build, tied: bool) -> None:
    model: Any = build("llama", tie_word_embeddings=tied)
    attach_value_head(model, scores_only=True)
    assert model.lm_head.weight.requires_grad is tied
    assert model.model.embed_tokens.weight.requires_grad


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_models_files_do_not_hold_it(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture, tuning: str
) -> None:
    model, head = with_head(build, "llama", tuning)
    model.save_pretrained(tmp_path)
    assert save_value_head(model, tmp_path)
    assert load_file(tmp_path / "value_head.safetensors").keys() == KEYS
    weights = load_file(tmp_path / ("model.safetensors" if tuning == "full" else "adapter_model.safetensors"))
    assert not [name for name in weights if "v_head" in name]
    if tuning == "full":
        _, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["unexpected_keys"]
        assert not report["missing_keys"]
    else:
        PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    fresh = build("llama", tuning)
    loaded = load_value_head(fresh, tmp_path)
    assert torch.equal(loaded.summary.weight, head.summary.weight)
    assert not [record for record in caplog.records if "v_head" in record.getMessage()]


def test_without_a_value_head_nothing_is_written(build: Build, tmp_path: Path) -> None:
    assert not save_value_head(build(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_value_head_that_does_not_fit_is_an_error(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "value_head.safetensors"
    with pytest.raises(DataError, match="cannot be loaded"):
        load_value_head(build(), tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_value_head(build(), tmp_path)
    save_file({"v_head.summary.weight": torch.zeros(1, 7), "v_head.summary.bias": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_value_head(build(), tmp_path)


# ---- training


class Scoring(PackedTrainer):
    """Pulls scores and values to a constant: uses everything that a stage may use."""

    def items(self, batch: Any) -> int:
        return len(batch["cu_seqlens"]) - 1

    def loss(self, model: nn.Module, batch: Any, normaliser: Any) -> Tensor:
        head = value_head(self.model)
        assert head is not None
        log_probs, values, _ = self.engine.values(batch, head, model)
        return per_sequence(batch, (values - 1).square() - 0.1 * log_probs).sum() / normaliser


class Ranking(Scoring):
    def loss(self, model: nn.Module, batch: Any, normaliser: Any) -> Tensor:
        head = value_head(self.model)
        assert head is not None
        return (self.engine.scores(batch, head, model) - 1).square().sum() / normaliser


def trainable(trainer: PackedTrainer) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): value.detach().clone()
        for name, value in trainer.model.named_parameters()
        if value.requires_grad
    }


@pytest.mark.parametrize(("tuning", "attention"), [("full", "packed"), ("lora", "packed"), ("lora", "padded")])
def test_a_resumed_run_restores_the_head(
    build: Build,
    arguments: Arguments,
    features: Features,
    tmp_path: Path,
    tuning: str,
    attention: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def trainer(seed: int) -> Scoring:
        model = build("llama", tuning)
        torch.manual_seed(seed)
        attach_value_head(model)
        return Scoring(model, arguments(**settings), attention=attention, train_dataset=features)

    straight = trainer(0)
    straight.train()
    resumed = trainer(1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert all(torch.equal(value, trainable(straight)[name]) for name, value in trainable(resumed).items())
    assert "missing keys" not in caplog.text
    (tmp_path / "out" / "checkpoint-2" / "value_head.safetensors").unlink()
    with pytest.raises(DataError, match="value head"):
        trainer(1).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def train_as(rank: int, world: int, port: int, folder: str) -> None:
    """One process of a gloo group, or the whole of a single one; writes the weights of both trainers."""
    from transformers import TrainingArguments

    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (9, 4, 17, 6, 11, 8, 5, 13)]
    saved = {}
    for kind in (Scoring, Ranking):
        torch.manual_seed(0)
        model = tiny_model("llama")
        attach_value_head(model, scores_only=kind is Ranking)
        arguments = TrainingArguments(
            output_dir=f"{folder}/out-{world}",
            per_device_train_batch_size=4 // world,
            max_steps=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            ddp_find_unused_parameters=kind is Scoring,
        )
        trainer = kind(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
        trainer.train()
        saved |= {f"{kind.__name__}.{name}": value.contiguous() for name, value in trainable(trainer).items()}
    if rank == 0:
        save_file(saved, f"{folder}/{world}.safetensors")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_the_head_as_one_does(tmp_path: Path) -> None:
    import socket

    import torch.multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    for world in (1, 2):
        group = [context.Process(target=train_as, args=(rank, world, port, str(tmp_path))) for rank in range(world)]
        for process in group:
            process.start()
        for process in group:
            process.join(120)
            assert process.exitcode == 0
    one, two = (load_file(tmp_path / f"{world}.safetensors") for world in (1, 2))
    assert {f"Ranking.{name}" for name in KEYS} <= one.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
