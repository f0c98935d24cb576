"""Every name that transformers knows is in the table, and those that a CPU can run train and go on exactly."""

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from ft.testing import tiny_model
from ft.training.optimization import load_state
from ft.training.trees import load_tree, save_tree
from ft_plugins.optimizers.optim import NAMES

BUILT_IN = {"", "bitsandbytes"}
RUN_HERE = sorted(
    name for name, optim in NAMES.items() if not (optim.refused or optim.gpu) and optim.package in BUILT_IN
)
IDS = torch.randint(0, 384, (2, 24), generator=torch.Generator().manual_seed(1))


def test_no_name_of_transformers_is_forgotten():
    assert {name.value for name in OptimizerNames} == set(NAMES)


def test_what_is_written_instead_can_be_had():
    for name, optim in NAMES.items():
        instead = NAMES.get(optim.instead)
        assert ":" in optim.instead or not (instead.refused or instead.gpu or instead.inexact), name


def made(name, model, folder):
    arguments = TrainingArguments(folder, optim=name, use_cpu=True, learning_rate=1e-2, report_to=[])
    return Trainer(model, arguments).create_optimizer()


def steps(model, optimizer, count):
    losses = []
    for _ in range(count):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", RUN_HERE)
def test_it_learns_and_goes_on_exactly_from_its_saved_state(name, tmp_path):
    model = tiny_model()
    optimizer = made(name, model, tmp_path)
    begun = steps(model, optimizer, 2)
    save_tree(optimizer.state_dict(), tmp_path / "state")
    other = tiny_model()
    other.load_state_dict(model.state_dict())
    again = made(name, other, tmp_path)
    load_state(again, load_tree(tmp_path / "state"))
    rest = steps(model, optimizer, 2)
    assert steps(other, again, 2) == rest
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    assert min(begun[1:] + rest) < begun[0]
