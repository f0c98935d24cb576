"""Each loss of preference learning and its gradient, against its paper's formula in plain float64 numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ft_plugins.stages._trainers.preference_math import LOSSES, bco, kto, kto_pair, length_weights

SCORES = [[-0.3, -1.7], [-2.1, -0.4], [-0.9, -0.9], [-0.001, -7.0]]
BETA, GAMMA, SMOOTHING = 0.7, 0.5, 0.1


def options(**changes):
    values = {"pref_beta": BETA, "dpo_label_smoothing": 0.0, "simpo_gamma": GAMMA}
    return SimpleNamespace(**{**values, "kto_chosen_weight": 1.3, "kto_rejected_weight": 0.6, **changes})


def probability(x):
    """The logistic function."""
    return 1 / (1 + math.exp(-x))


def odds(mean_log_prob):
    p = math.exp(mean_log_prob)
    return p / (1 - p)


PAPERS = {
    "sigmoid": lambda c, r: -math.log(probability(BETA * (c - r))),
    "hinge": lambda c, r: max(0.0, 1 - BETA * (c - r)),
    "ipo": lambda c, r: (c - r - 1 / (2 * BETA)) ** 2,
    "orpo": lambda c, r: -c - BETA * math.log(probability(math.log(odds(c) / odds(r)))),
    "simpo": lambda c, r: -math.log(probability(BETA * c - BETA * r - GAMMA)),
}


def check(loss, formula, scores):
    """The values of a loss at scores (P, 2), and its gradient against central differences of the formula."""
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    values = loss(tensor)
    assert values.tolist() == pytest.approx([formula(c, r) for c, r in scores], rel=1e-12)
    values.sum().backward()
    step = 1e-6
    slopes = []
    for c, r in scores:
        slopes.append((formula(c + step, r) - formula(c - step, r)) / (2 * step))
        slopes.append((formula(c, r + step) - formula(c, r - step)) / (2 * step))
    assert tensor.grad.flatten().tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", PAPERS)
def test_a_loss_is_its_papers_formula(name):
    assert PAPERS.keys() == LOSSES.keys()
    check(lambda scores: LOSSES[name](scores, options()), PAPERS[name], SCORES)


def test_label_smoothing_expects_some_pairs_to_be_the_wrong_way_round():
    def formula(c, r):
        right = probability(BETA * (c - r))
        return -(1 - SMOOTHING) * math.log(right) - SMOOTHING * math.log(1 - right)

    check(lambda scores: LOSSES["sigmoid"](scores, options(dpo_label_smoothing=SMOOTHING)), formula, SCORES)


def test_paired_kto_compares_each_side_with_the_divergence_of_the_other():
    of_chosen, of_rejected = 0.4, 0.0

    def formula(c, r):
        return (1 - probability(BETA * (c - of_rejected)) + 1 - probability(BETA * (of_chosen - r))) / 2

    divergence = torch.tensor([of_chosen, of_rejected], dtype=torch.float64)
    check(lambda scores: kto_pair(scores, options(), divergence), formula, SCORES)


def test_bco_classifies_both_answers():
    def formula(c, r):
        return -math.log(probability(BETA * c)) - math.log(probability(-BETA * r))

    check(lambda scores: bco(scores, options()), formula, SCORES)


def test_kto_weighs_good_and_bad_answers_apart():
    divergence = 0.25

    def formula(good, bad):
        good_value, bad_value = probability(BETA * (good - divergence)), probability(BETA * (divergence - bad))
        return (1.3 - 1.3 * good_value) + (0.6 - 0.6 * bad_value)

    def both(scores):
        judged = (torch.full((len(scores),), desirable) for desirable in (True, False))
        return sum(
            kto(scores[:, side], desirable, torch.tensor(divergence), options())
            for side, desirable in enumerate(judged)
        )

    check(both, formula, SCORES)


@pytest.mark.parametrize(
    ("name", "value"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("kto_pair", 0.5), ("kto", 0.5)]
)
def test_a_fresh_policy_has_the_known_loss(name, value):
    zeros, fresh = torch.zeros(1, 2), options(pref_beta=0.1, kto_chosen_weight=1.0)
    if name == "kto":
        losses = kto(zeros[:, 0], torch.tensor([True]), torch.tensor(0.0), fresh)
    elif name == "kto_pair":
        losses = kto_pair(zeros, fresh, torch.zeros(2))
    else:
        losses = LOSSES[name](zeros, fresh)
    assert losses.tolist() == pytest.approx([value])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scores", [[0.0, -30.0], [-1e-9, -1e-9], [-800.0, -1.0], [-1.0, -800.0]])
def test_certain_and_hopeless_answers_give_finite_losses_and_gradients(name, scores):
    tensor = torch.tensor([scores], requires_grad=True)
    values = LOSSES[name](tensor, options())
    values.sum().backward()
    assert values.isfinite().all()
    assert tensor.grad.isfinite().all()


def test_labels_beyond_the_shorter_answer_weigh_less():
    lengths = torch.tensor([[4, 2], [1, 3]])
    sequence_of = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])
    assert length_weights(sequence_of, lengths, 0.25).tolist() == [1, 1, 0.25, 0.25, 1, 1, 1, 1, 0.25, 0.25]
