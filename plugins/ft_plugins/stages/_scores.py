"""How alike two texts are, by their words: BLEU-4 and ROUGE-1, -2 and -L.

Words are separated by spaces; Chinese, which has none, is cut by jieba where that is installed, else into characters.

References:
    BLEU: Papineni et al. 2002, of single sentences, smoothed by method 3 of Chen and Cherry 2014.
    ROUGE: Lin 2004, the F measure with equal weights.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from rapidfuzz.distance import LCSseq

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ORDERS: Final = (1, 2, 3, 4)
_CHINESE: Final = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+")


def scores(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The means over all pairs, in percent: ``bleu-4``, ``rouge-1``, ``rouge-2`` and ``rouge-l``."""
    each = [similarity(words(prediction), words(label)) for prediction, label in zip(predictions, labels, strict=True)]
    return {name: round(100 * sum(pair[name] for pair in each) / len(each), 4) for name in each[0]} if each else {}


def similarity(prediction: Sequence[str], label: Sequence[str]) -> Mapping[str, float]:
    """All four, from 0 to 1. Two texts without words are alike; a text without words is like no other."""
    if not prediction or not label:
        return dict.fromkeys(("bleu-4", "rouge-1", "rouge-2", "rouge-l"), float(prediction == label))
    return {
        "bleu-4": bleu(prediction, label),
        "rouge-1": _rouge_n(prediction, label, 1),
        "rouge-2": _rouge_n(prediction, label, 2),
        "rouge-l": _f_measure(LCSseq.similarity(prediction, label), len(prediction), len(label)),
    }


def words(text: str) -> list[str]:
    """The words of a text, runs of Chinese cut into theirs."""
    spaced = _CHINESE.sub(lambda found: f" {' '.join(_cut(found[0]))} ", text)
    return spaced.split()


def bleu(prediction: Sequence[str], label: Sequence[str]) -> float:
    """BLEU-4 of one sentence: an order without a match counts half, a quarter, … of one match."""
    halvings, logs = 0, 0.0
    for order in ORDERS:
        matches, total = _overlap(prediction, label, order), max(1, len(prediction) - order + 1)
        if not matches:
            if order == 1:
                return 0.0
            halvings += 1
        logs += math.log((matches or 0.5**halvings) / total)
    return math.exp(min(0.0, 1 - len(label) / len(prediction)) + logs / len(ORDERS))


def _rouge_n(prediction: Sequence[str], label: Sequence[str], order: int) -> float:
    return _f_measure(_overlap(prediction, label, order), len(prediction) - order + 1, len(label) - order + 1)


def _f_measure(matches: float, predicted: int, wanted: int) -> float:
    return 2 * matches / (predicted + wanted) if matches else 0.0


def _overlap(one: Sequence[str], other: Sequence[str], order: int) -> int:
    """n-grams in common, each as often as in both."""
    return (Counter(_grams(one, order)) & Counter(_grams(other, order))).total()


def _grams(text: Sequence[str], order: int) -> Iterable[tuple[str, ...]]:
    return zip(*(text[start:] for start in range(order)), strict=False)


def _cut(chinese: str) -> Iterable[str]:
    jieba = _jieba()
    return jieba.cut(chinese) if jieba else chinese


@cache
def _jieba() -> Any:
    """The module, if it is installed; it writes to the terminal while it loads, unless told not to."""
    if find_spec("jieba") is None:
        return None
    jieba = import_module("jieba")
    jieba.setLogLevel(logging.WARNING)
    return jieba
