"""Stepping each weight within the backward pass is stepping all after it, to the bit, where nothing is clipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ft.testing import tiny_model
from ft_hookspecs import Plan, Run
from ft_hookspecs.plan import Source
from ft_plugins.accelerators._layers.recompute import checkpoint_layers
from ft_plugins.optimizers import apollo, galore

IDS = torch.randint(4, 384, (2, 24), generator=torch.Generator().manual_seed(1))
COMMON = {"learning_rate": 1e-2, "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-8}
GALORE = {"galore_rank": 8, "galore_update_interval": 2}
APOLLO = {"apollo_rank": 8, "apollo_update_interval": 2}


def trained(plugin: Any, options: Any, optim: str, *, checkpointed: bool = False) -> tuple[list[float], Any]:
    """Losses of five steps under a falling learning rate, and the model, whose embeddings are tied."""
    model = tiny_model(tie_word_embeddings=True).train()
    if checkpointed:
        checkpoint_layers(model, "full")
    plan = Plan({**COMMON, "optim": optim}, {"optim": Source("file")}, (), (options,), None)
    optimizer = plugin.ft_create_optimizer(Run(plan), model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    losses = []
    for _ in range(5):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        assert all(each.grad is None for each in model.parameters()) is layerwise(options)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def layerwise(options: Any) -> bool:
    return bool(getattr(options, "galore_layerwise", False) or getattr(options, "apollo_layerwise", False))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("plugin", "make", "optim"),
    [
        (galore, lambda on: galore.GaloreOptions(galore_layerwise=on, **GALORE), "adamw_torch"),
        (galore, lambda on: galore.GaloreOptions(galore_layerwise=on, **GALORE), "adafactor"),
        (apollo, lambda on: apollo.ApolloOptions(apollo_layerwise=on, **APOLLO), "adamw_torch"),
    ],
)
def test_layerwise_is_the_plain_one(plugin: Any, make: Any, optim: str, checkpointed: bool) -> None:
    losses, plain = trained(plugin, make(False), optim)
    within, other = trained(plugin, make(True), optim, checkpointed=checkpointed)
    assert within == losses
    assert losses[-1] < losses[0]
    for name, weight in plain.named_parameters():
        assert torch.equal(other.get_parameter(name), weight), name


@pytest.mark.parametrize("optim", ["adamw_8bit", "adamw_bnb_8bit"])
def test_galore_in_8_bits_learns_like_galore(monkeypatch: pytest.MonkeyPatch, optim: str) -> None:
    """The states of projected weights are so small here that they are fp32: only embeddings and head are rounded."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)  # the library waits for a GPU that is not there
    options = galore.GaloreOptions(**GALORE)
    losses, _ = trained(galore, options, optim)
    assert losses == pytest.approx(trained(galore, options, "adamw_torch")[0], rel=0.02)
