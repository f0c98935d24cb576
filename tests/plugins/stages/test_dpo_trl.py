"""The losses that TRL has too, on the same batch of a tiny Llama that has moved away from its reference."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ft.testing import tiny_model, tiny_tokenizer
from ft_plugins.stages._trainers.dpo import DpoTrainer
from ft_plugins.stages._trainers.preference_math import LOSSES
from ft_plugins.stages.dpo import DpoOptions

ROWS = [
    {"prompt": "Who are you?", "chosen": " I am a small model.", "rejected": " No."},
    {"prompt": "What is the capital of France?", "chosen": " Paris.", "rejected": " The capital of France is Rome."},
    {"prompt": "One two three", "chosen": " four five six", "rejected": " seven eight nine ten"},
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """TRL's trainer of the whole model, with another reference."""
    from trl import DPOConfig, DPOTrainer

    policy = tiny_model()
    draw = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
    arguments = DPOConfig(
        str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False
    )
    data = Dataset.from_list(ROWS)
    return DPOTrainer(policy, tiny_model(), arguments, train_dataset=data, processing_class=tiny_tokenizer())


@pytest.fixture(scope="module")
def rows(theirs):
    """TRL's tokens as ours, with the reference's log-probabilities."""
    own = [
        {
            "prompt_ids": row["prompt_ids"],
            **{f"{side}_{what}": row[f"{side}_ids"] for side in ("chosen", "rejected") for what in ("ids", "labels")},
        }
        for row in theirs.train_dataset
    ]
    options = DpoOptions(pref_loss="orpo")
    reference = DpoTrainer(tiny_model(), arguments_for(theirs), options=options)
    for row in own:
        row["reference"] = reference.engine.log_probs(reference.collate([row])).tolist()
    return own


def arguments_for(theirs):
    return TrainingArguments(theirs.args.output_dir, use_cpu=True, report_to=[])


CASES = {
    "sigmoid": ({"loss_types": ["sigmoid"]}, {"pref_loss": "sigmoid"}),
    "hinge": ({"loss_types": ["hinge"]}, {"pref_loss": "hinge"}),
    "ipo": ({"loss_types": ["ipo"]}, {"pref_loss": "ipo"}),
    "ld": ({"loss_types": ["sigmoid"], "ld_alpha": 0.3}, {"pref_loss": "sigmoid", "ld_alpha": 0.3}),
    "bco": (
        {"loss_types": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
        {"pref_loss": "sigmoid", "pref_bco_weight": 0.25},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(name, theirs, rows, monkeypatch):
    settings, keys = CASES[name]
    for key, value in {"ld_alpha": None, "loss_weights": [1.0], "beta": 0.3, **settings}.items():
        monkeypatch.setattr(theirs, key, value)
    theirs.model.zero_grad()
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(len(rows))])
    expected = theirs._compute_loss(theirs.model, batch, return_outputs=False)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.model.named_parameters()}

    model = copy.deepcopy(theirs.model)
    model.__dict__.pop("forward", None)
    model.zero_grad()
    ours = DpoTrainer(model, arguments_for(theirs), options=DpoOptions(pref_beta=0.3, **keys))
    loss = ours.compute_loss(model, ours.collate(rows), num_items_in_batch=len(rows))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for parameter_name, parameter in model.named_parameters():
        true = gradients[parameter_name]
        assert (parameter.grad - true).norm() <= 1e-5 * true.norm(), parameter_name


SCORES = torch.tensor([[-0.3, -1.7], [-2.1, -0.4], [-0.9, -0.9]])
DEVICE = SimpleNamespace(device="cpu")


def test_the_odds_ratio_is_trls():
    """TRL's orpo adds the NLL of the prompt too, so that only the other term is compared."""
    from trl.experimental.orpo import ORPOTrainer

    theirs = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.3, accelerator=DEVICE), *SCORES.unbind(1))[0]
    ours = LOSSES["orpo"](SCORES, DpoOptions(pref_loss="orpo", pref_beta=0.3)) + SCORES[:, 0]
    assert torch.allclose(ours, -theirs, rtol=1e-5)


def test_simpo_is_trls():
    from trl.experimental.cpo import CPOTrainer

    settings = {"alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.7, "loss_type": "simpo", "label_smoothing": 0.0}
    theirs = CPOTrainer.cpo_loss(SimpleNamespace(accelerator=DEVICE, **settings), *SCORES.unbind(1))[0]
    ours = LOSSES["simpo"](SCORES, DpoOptions(pref_loss="simpo", pref_beta=2.0, simpo_gamma=0.7))
    assert torch.allclose(ours, theirs, rtol=1e-5)
