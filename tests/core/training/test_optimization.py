"""The groups that every optimizer is made of."""

from functools import partial

import pytest
import torch

from ft.errors import PluginError
from ft.testing import tiny_model
from ft.training import PackedTrainer, parameter_groups
from ft.training.optimization import load_state
from ft_hookspecs import Plan, Run


@pytest.fixture
def run():
    def make(groups=lambda _: None):
        plan = Plan({"learning_rate": 0.01, "weight_decay": 0.1}, {}, (), (), None)
        return Run(plan, group_parameters=groups)

    return make


def names(model, group):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in group["params"]}


def test_by_default_norms_do_not_decay(run):
    model = tiny_model()
    decaying, others = parameter_groups(run(), model)
    assert (decaying["lr"], decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.1, 0.0)
    assert names(model, others) == {name for name, _ in model.named_parameters() if "norm" in name}
    assert names(model, decaying) | names(model, others) == {name for name, _ in model.named_parameters()}


def test_what_is_frozen_is_in_no_group(run):
    model = tiny_model().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    (group,) = parameter_groups(run(), model)
    assert names(model, group) == {"lm_head.weight"}


def halves(model):
    parameters = list(model.parameters())
    return [{"params": parameters[:3], "lr": 1.0}, {"params": parameters[3:], "weight_decay": 0.0}]


def test_a_plugins_groups_have_their_rates_and_else_the_runs(run):
    first, second = parameter_groups(run(halves), tiny_model())
    assert (first["lr"], first["weight_decay"]) == (1.0, 0.1)
    assert (second["lr"], second["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        (lambda model: halves(model)[:1], "leave out lm_head.weight, model.layers.0"),
        (lambda model: [*halves(model), {"params": [model.lm_head.weight]}], "hold twice lm_head.weight"),
        (lambda model: [*halves(model), {"params": [torch.ones(1)]}], "hold what does not train a foreign one"),
    ],
)
def test_groups_that_are_not_a_partition_are_refused(run, groups, fault):
    with pytest.raises(PluginError, match=fault):
        parameter_groups(run(groups), tiny_model())


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "adamw_8bit"])
def test_the_optimizer_of_optim_is_made_of_them(run, arguments, features, optim):
    groups = partial(parameter_groups, run(halves))
    trainer = PackedTrainer(tiny_model(), arguments(optim=optim), train_dataset=features, parameter_groups=groups)
    assert [group["lr"] for group in trainer.create_optimizer().param_groups] == [1.0, 0.01]


def test_a_state_finer_than_its_parameter_is_not_rounded_on_loading():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    fine = torch.tensor([1.0001, 2.0001])
    saved = {**optimizer.state_dict(), "state": {0: {"momentum_buffer": fine}}}
    load_state(optimizer, saved)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], fine)


def test_a_gradient_norm_is_not_given_where_no_gradient_is_left(arguments, features):
    trainer = PackedTrainer(tiny_model(), arguments(), train_dataset=features)
    assert trainer._get_grad_norm(trainer.model) is None
