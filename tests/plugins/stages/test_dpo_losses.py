"""Loss and gradient of a batch of pairs, against float64 written from the papers, and against TRL."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import log_softmax, logsigmoid
from transformers import TrainingArguments

from ft.testing import tiny_model
from ft_plugins.stages._trainers.dpo import DpoTrainer, KtoPairTrainer
from ft_plugins.stages.dpo import DpoOptions

BETA = 0.1
SIZES = ((9, 5, 12), (17, 8, 3), (4, 11, 11), (13, 1, 6))  # tokens of prompt, chosen and rejected


@pytest.fixture(scope="module")
def pairs():
    """Four pairs; the third token of the longer answers is not learned."""
    draw = torch.Generator().manual_seed(3)

    def ids(length):
        return torch.randint(4, 384, (length,), generator=draw).tolist()

    def side(name, tokens):
        return {
            f"{name}_ids": tokens,
            f"{name}_labels": [-100 if i == 2 and len(tokens) > 6 else t for i, t in enumerate(tokens)],
        }

    return [{"prompt_ids": ids(p), **side("chosen", ids(c)), **side("rejected", ids(r))} for p, c, r in SIZES]


@pytest.fixture(scope="module")
def policy():
    """A tiny Llama with an adapter whose B is not zero, so that it differs from its base, the reference."""
    model = get_peft_model(tiny_model(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05, generator=draw)
    return model


def log_probs(model, prompt, ids, labels):
    """Of each label, by the plain forward of one sequence in float64."""
    rows = log_softmax(model(torch.tensor([prompt + ids])).logits[0], -1)
    places = [(len(prompt) + i, label) for i, label in enumerate(labels) if label != -100]
    return torch.stack([rows[place - 1, label] for place, label in places])


def answers(model, row):
    return [log_probs(model, row["prompt_ids"], row[f"{s}_ids"], row[f"{s}_labels"]) for s in ("chosen", "rejected")]


@pytest.fixture(scope="module")
def known(policy, pairs):
    """The pairs with the reference's log-probabilities, and these in float64."""
    exact = copy.deepcopy(policy).double()
    with torch.no_grad(), exact.disable_adapter():
        reference = [answers(exact, row) for row in pairs]
    rows = [{**row, "reference": torch.cat(both).tolist()} for row, both in zip(pairs, reference, strict=True)]
    return rows, reference


def by_papers(loss, policy, reference, options):
    """The mean loss of all pairs: policy and reference are lists of (chosen, rejected) log-probabilities of labels."""
    total, ratios = 0, []
    for ours, theirs in zip(policy, reference, strict=True):
        shorter = min(map(len, ours))
        weigh = [torch.where(torch.arange(len(x)) < shorter, 1.0, options.get("ld_alpha", 1.0)) for x in ours]
        pi_c, pi_r = [(x * w).sum() for x, w in zip(ours, weigh, strict=True)]
        ref_c, ref_r = [(x * w).sum() for x, w in zip(theirs, weigh, strict=True)]
        n_c, n_r = map(len, ours)
        d = (pi_c - ref_c) - (pi_r - ref_r)
        if loss == "sigmoid":
            smooth = options.get("dpo_label_smoothing", 0)
            value = -(1 - smooth) * logsigmoid(BETA * d) - smooth * logsigmoid(-BETA * d)
        elif loss == "hinge":
            value = torch.relu(1 - BETA * d)
        elif loss == "ipo":
            value = ((pi_c - ref_c) / n_c - (pi_r - ref_r) / n_r - 1 / (2 * BETA)) ** 2
        elif loss == "simpo":
            value = -logsigmoid(BETA * pi_c / n_c - BETA * pi_r / n_r - options.get("simpo_gamma", 0.5))
        elif loss == "orpo":
            p, q = torch.exp(pi_c / n_c), torch.exp(pi_r / n_r)
            value = -pi_c / n_c - BETA * logsigmoid(torch.log(p / (1 - p) / (q / (1 - q))))
        else:
            value = 0
        if w := options.get("pref_bco_weight"):
            value = (value - w * (logsigmoid(BETA * (pi_c - ref_c)) + logsigmoid(-BETA * (pi_r - ref_r)))) / (1 + w)
        total = total + value - options.get("pref_ftx", 0) * ours[0].mean()
        ratios.append(torch.stack([pi_c - ref_c, pi_r - ref_r]))
    if loss == "kto_pair":
        chosen, rejected = torch.stack(ratios).unbind(1)
        kl_c, kl_r = (side.detach().mean().clamp(min=0) for side in (chosen, rejected))
        good, bad = torch.sigmoid(BETA * (chosen - kl_r)), torch.sigmoid(BETA * (kl_c - rejected))
        total = total + ((1 - good) / 2 + (1 - bad) / 2).sum()
    return total / len(policy)


def trainer_for(policy, folder, options, attention="auto", rows=None):
    kind = KtoPairTrainer if options.pref_loss == "kto_pair" else DpoTrainer
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], remove_unused_columns=False)
    return kind(copy.deepcopy(policy), arguments, options=options, attention=attention, train_dataset=rows)


def step(trainer, micro_batches):
    """Loss and gradients of one optimizer step."""
    trainer.state.max_steps = 1
    batches, items = trainer.get_batch_samples(iter(map(trainer.collate, micro_batches)), len(micro_batches), "cpu")
    total = 0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    return total, gradients(trainer.model)


def gradients(model):
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found, expected, tolerance=1e-5):
    (loss, own), (other, true) = found, expected
    assert loss == pytest.approx(other, rel=tolerance)
    assert own.keys() == true.keys() != set()
    for name, gradient in true.items():
        assert (own[name] - gradient).norm() <= tolerance * gradient.norm(), name


CASES = [
    ("sigmoid", {}),
    ("sigmoid", {"dpo_label_smoothing": 0.2, "pref_ftx": 0.3}),
    ("sigmoid", {"ld_alpha": 0.25}),
    ("sigmoid", {"pref_bco_weight": 0.5}),
    ("hinge", {}),
    ("ipo", {}),
    ("kto_pair", {}),
    ("orpo", {}),
    ("orpo", {"ld_alpha": 0.5, "pref_ftx": 0.1}),
    ("simpo", {"simpo_gamma": 0.7}),
]


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize(("loss", "more"), CASES)
def test_loss_and_gradient_are_the_papers(loss, more, attention, policy, known, tmp_path):
    rows, reference = known
    exact = copy.deepcopy(policy).double()
    expected = by_papers(loss, [answers(exact, row) for row in rows], reference, more)
    expected.backward()
    options = DpoOptions(pref_loss=loss, pref_beta=BETA, **more)
    for cut in ([rows], [rows[:1], rows[1:3], rows[3:]]):
        found = step(trainer_for(policy, tmp_path, options, attention), cut)
        assert_equal(found, (expected.item(), gradients(exact)))
