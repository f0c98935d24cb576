"""The losses of preference learning as functions of log-probabilities, each as its paper writes it.

Shapes: P pairs, whose last dimension is (chosen, rejected); E single answers; L labels.

A *score* is what a loss compares. Of a loss with a reference it is the log-ratio log π(y|x) - log π_ref(y|x), else
log π(y|x); ``ipo``, ``orpo`` and ``simpo`` take it per token. β times the score is the answer's implicit reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

if TYPE_CHECKING:
    from collections.abc import Callable

    from ft_plugins.stages.dpo import DpoOptions
    from ft_plugins.stages.kto import KtoOptions


def margin(scores: Tensor) -> Tensor:
    """Score of the chosen less that of the rejected answer: (P, 2) → (P,)."""
    return scores[:, 0] - scores[:, 1]


# ---- losses of pairs: scores (P, 2) → (P,) -------------------------------------------------------------------------


def sigmoid(scores: Tensor, options: DpoOptions) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), labels being wrong with probability ε (cDPO)."""
    logits, flipped = options.pref_beta * margin(scores), options.dpo_label_smoothing
    return -(1 - flipped) * logsigmoid(logits) - flipped * logsigmoid(-logits)


def hinge(scores: Tensor, options: DpoOptions) -> Tensor:
    """SLiC's rank calibration (Zhao et al. 2023, arXiv:2305.10425, eq. 1) on implicit rewards, with margin 1."""
    return relu(1 - options.pref_beta * margin(scores))


def ipo(scores: Tensor, options: DpoOptions) -> Tensor:
    """IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17), β being its τ; scores per token."""
    squared: Tensor = (margin(scores) - 1 / (2 * options.pref_beta)) ** 2
    return squared


def orpo(scores: Tensor, options: DpoOptions) -> Tensor:
    """ORPO (Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7): the chosen answer's NLL and the odds ratio, β being λ.

    A probability of 1 has infinite odds; it is taken one rounding below.
    """
    below_one = scores.clamp(max=-torch.finfo(scores.dtype).eps)
    log_odds = below_one - torch.log(-torch.expm1(below_one))
    return -scores[:, 0] - options.pref_beta * logsigmoid(margin(log_odds))


def simpo(scores: Tensor, options: DpoOptions) -> Tensor:
    """SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6): a margin γ between log-probabilities per token."""
    return -logsigmoid(options.pref_beta * margin(scores) - options.simpo_gamma)


def kto_pair(scores: Tensor, options: DpoOptions, divergence: Tensor) -> Tensor:
    """The two answers of a pair by KTO (Ethayarajh et al. 2024, arXiv:2402.01306), half of the sum.

    Args:
        scores: (P, 2).
        options: β.
        divergence: (2,), the KL as the chosen answers and as the rejected ones estimate it. Each side is compared with
            the other's, because its own answers are what it is to change.
    """
    chosen, rejected = (options.pref_beta * (scores - divergence.flip(0))).unbind(1)
    return 1 - (chosen.sigmoid() + (-rejected).sigmoid()) / 2


LOSSES: Final[dict[str, Callable[[Tensor, DpoOptions], Tensor]]] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "orpo": orpo,
    "simpo": simpo,
}
"""Those that need nothing but the scores."""


def bco(scores: Tensor, options: DpoOptions) -> Tensor:
    """BCO of a pair (Jung et al. 2024, arXiv:2404.04656) with no reward shift: chosen or rejected as classes."""
    chosen, rejected = (options.pref_beta * scores).unbind(1)
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def length_weights(sequence_of: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """LD-DPO (Liu et al. 2024, arXiv:2409.06411): labels beyond the length of the pair's shorter answer weigh α: (L,).

    Args:
        sequence_of: (L,) the answer that each label belongs to, ascending.
        lengths: (P, 2) labels of each answer.
        alpha: weight of the labels beyond.
    """
    ends, shorter = lengths.flatten().cumsum(0), lengths.amin(1, keepdim=True).expand(-1, 2).flatten()
    rank = torch.arange(len(sequence_of), device=ends.device) - (ends - lengths.flatten())[sequence_of]
    return torch.where(rank < shorter[sequence_of], 1.0, alpha)


# ---- single answers ------------------------------------------------------------------------------------------------


def kto(scores: Tensor, desirable: Tensor, divergence: Tensor, options: KtoOptions) -> Tensor:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8): λ_y less the value of each answer, (E,).

    Args:
        scores: (E,) log-ratios.
        desirable: (E,) whether the answer is a good one.
        divergence: the KL of policy and reference, the reference point z₀; without gradient.
        options: β, λ_D and λ_U.
    """
    gain = options.pref_beta * (scores - divergence)
    good, bad = options.kto_chosen_weight * (-gain).sigmoid(), options.kto_rejected_weight * gain.sigmoid()
    return torch.where(desirable, good, bad)
