"""A checkpoint is whole or is not used; what resumes from it cannot be told from a run that never stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ft.errors import ConfigError, TrainingError
from ft.training import PackedTrainer, latest_checkpoint
from ft.training.checkpoints import checkpoint_to_resume, fault, staged
from ft.training.trees import load_tree, save_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import TrainingArguments

    Build = Callable[..., nn.Module]
    Arguments = Callable[..., TrainingArguments]
    Features = list[dict[str, Any]]


def write(target: Path, text: str = "weights") -> Path:
    with staged(target, main=True, barrier=lambda: None) as folder:
        (folder / "model.safetensors").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "state.json").write_text("{}")
    return target


def test_a_checkpoint_is_whole_and_flat(tmp_path: Path) -> None:
    target = write(tmp_path / "checkpoint-3")
    assert fault(target) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def write_half(target: Path) -> None:
    with staged(target, main=True, barrier=lambda: None) as folder:
        (folder / "model.safetensors").write_text("half")
        raise OSError("disk full")


def test_a_failing_save_leaves_the_older_one(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-3", "old")
    with pytest.raises(OSError, match="full"):
        write_half(tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_text() == "old"
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    write(tmp_path / "checkpoint-3", "new")
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_text() == "new"
    assert fault(tmp_path / "checkpoint-3") == ""


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "deleted": lambda path: path.unlink(),
    "bit": flip_a_bit,
    "emptied": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "sub/state.json", "manifest.json"])
def test_damage_is_found_and_the_file_named(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path / "checkpoint-9")
    write(tmp_path / "checkpoint-10")
    DAMAGE[damage](tmp_path / "checkpoint-10" / name)
    reports: list[str] = []
    assert latest_checkpoint(tmp_path, reports.append) == tmp_path / "checkpoint-9"
    assert len(reports) == 1
    assert "checkpoint-10" in reports[0]
    assert name in reports[0]


def plan(folder: Path, asked: Any) -> Any:
    values = {"resume_from_checkpoint": asked}
    return SimpleNamespace(get=values.get, output_dir=folder, sources={})


def test_what_is_asked_is_what_is_resumed(tmp_path: Path) -> None:
    reports: list[str] = []
    assert checkpoint_to_resume(plan(tmp_path, None), reports.append) is None
    assert checkpoint_to_resume(plan(tmp_path, True), reports.append) is None
    assert "beginning" in reports[0]
    first, second = write(tmp_path / "checkpoint-9"), write(tmp_path / "checkpoint-10")
    assert checkpoint_to_resume(plan(tmp_path, "true"), reports.append) == second
    assert checkpoint_to_resume(plan(tmp_path, str(first)), reports.append) == first
    flip_a_bit(first / "model.safetensors")
    with pytest.raises(ConfigError, match="cannot resume"):
        checkpoint_to_resume(plan(tmp_path, str(first)), reports.append)
    flip_a_bit(second / "model.safetensors")
    with pytest.raises(ConfigError, match="is whole"):
        checkpoint_to_resume(plan(tmp_path, True), reports.append)


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": shared, "same": shared.t()}, 1: {}},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "amsgrad": False, "foreach": None, "eps": float("inf")}],
        "random": ("MT", np.arange(3, dtype=np.uint32), np.int64(4)),
    }
    save_tree(tree, tmp_path / "tree")
    found = load_tree(tmp_path / "tree")
    assert found["groups"] == tree["groups"]
    assert isinstance(found["groups"][0]["betas"], tuple)
    assert found["state"].keys() == {0, 1}
    assert torch.equal(found["state"][0]["same"], shared.t())
    assert found["random"][1].dtype == np.uint32


def test_what_cannot_be_saved_without_pickle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="object"):
        save_tree({"state": object()}, tmp_path / "tree")


def settings(steps: int, **changes: Any) -> dict[str, Any]:
    values = {"max_steps": steps, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "cosine"}
    return {**values, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "seed": 7, **changes}


def outcome(trainer: PackedTrainer) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, {name: value.detach() for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_resuming_is_bit_identical(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path, tuning: str
) -> None:
    """Three steps and a resume equal six, over an epoch's end, with shuffling, accumulation and dropout."""
    model = {"arch": "llama", "tuning": tuning, "attention_dropout": 0.2}
    straight = PackedTrainer(build(**model), arguments(**settings(6)), train_dataset=features)
    straight.train()
    torch.manual_seed(999)  # whatever the process that resumes did before
    resumed = PackedTrainer(build(**model), arguments(**settings(6)), train_dataset=features)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    (losses, parameters), (found_losses, found) = outcome(straight), outcome(resumed)
    assert len(losses) == 6
    assert found_losses == losses
    assert all(torch.equal(found[name], value) for name, value in parameters.items())
    assert resumed.state.num_input_tokens_seen == straight.state.num_input_tokens_seen


def test_a_checkpoint_holds_no_pickle_and_no_secret(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path
) -> None:
    args = arguments(**settings(3, hub_token="hf_secretsecretsecret"))
    PackedTrainer(build(), args, train_dataset=features).train()
    folder = tmp_path / "out" / "checkpoint-3"
    names = {path.name for path in folder.rglob("*")}
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    assert {"model.safetensors", "optimizer_state.safetensors", "trainer_state.json", "manifest.json"} <= names
    assert all(b"hf_secret" not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_saved_config_is_plain_transformers(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path
) -> None:
    PackedTrainer(build(), arguments(**settings(3)), train_dataset=features).train()
    assert "ft_packed" not in (tmp_path / "out" / "checkpoint-3" / "config.json").read_text()


def test_old_checkpoints_go_and_the_best_stays(
    build: Build, arguments: Arguments, features: Features, tmp_path: Path
) -> None:
    changes = {
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "learning_rate": 0.3,
    }
    trainer = PackedTrainer(build(), arguments(**settings(4, **changes)), train_dataset=features, eval_dataset=features)
    trainer.train()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == f"checkpoint-{trainer.state.best_global_step}"
    assert left == {best.name, "checkpoint-4"}


def save_twice_and_die(folder: Path, at: int) -> int:
    """Two saves in a child process with SIGKILL at the given flush or rename; returns how the child ended."""
    child = os.fork()
    if not child:
        save_twice_dying(folder, at)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save_twice_dying(folder: Path, at: int) -> None:
    calls = iter(range(1, 1000))

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return call

    os.fsync = dying(os.fsync)
    Path.rename = dying(Path.rename)
    for number in (1, 2):
        write(folder / f"checkpoint-{number}", "weights" * number)


@pytest.mark.parametrize("at", range(1, 14))
def test_killed_anywhere_in_a_save(tmp_path: Path, at: int) -> None:
    """A save is four flushes, a rename and a flush. What is found after the kill is whole, and none is lost."""
    assert save_twice_and_die(tmp_path, at) == (-signal.SIGKILL if at <= 12 else 0)
    whole = [number for number in (1, 2) if (tmp_path / f"checkpoint-{number}").exists()]
    assert whole == ([] if at <= 5 else [1] if at <= 11 else [1, 2])
    assert all(fault(tmp_path / f"checkpoint-{number}") == "" for number in whole)
    found = latest_checkpoint(tmp_path)
    assert (found.name if found else None) == (f"checkpoint-{whole[-1]}" if whole else None)
