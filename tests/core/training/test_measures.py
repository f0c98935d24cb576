"""Means of evaluation are exact however many items there are."""

from __future__ import annotations

import numpy as np
from transformers import EvalPrediction

from ft.training.measures import MeasuringTrainer


def test_items_beyond_what_float32_can_count_are_counted() -> None:
    trainer = MeasuringTrainer.__new__(MeasuringTrainer)
    trainer._measured = ["loss"]
    items = np.array([[2.0**24], [1.0], [1.0], [2.0]], np.float32)
    sums = np.array([[2.0**24], [0.0], [0.0], [0.0]], np.float32)
    assert trainer._means(EvalPrediction(sums, items)) == {"loss": 2**24 / (2**24 + 4)}
