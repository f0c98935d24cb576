"""A packed batch holds exactly its examples, and gives back the padded one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ft.training import pack, pad, per_sequence

FEATURES = [
    {"input_ids": [5, 6, 7], "labels": [5, -100, 7]},
    {"input_ids": [8], "labels": [8]},
    {"input_ids": [9, 10], "labels": [-100, 10]},
]


def test_a_batch_is_one_row_with_boundaries() -> None:
    batch = pack(FEATURES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 4, 6]
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_length"] == 3


def test_the_first_token_of_a_sequence_is_never_a_label() -> None:
    batch = pack(FEATURES)
    assert batch["labels"].tolist() == [[-100, -100, 7, -100, -100, 10]]
    assert batch["rows"].tolist() == [1, 4]  # the positions that predict 7 and 10
    assert batch["targets"].tolist() == [7, 10]
    assert batch["sequence_of"].tolist() == [0, 2]


def test_features_are_left_as_they_were() -> None:
    feature = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])}
    pack([feature])
    assert feature["labels"].tolist() == [1, 2]


def test_weights_follow_their_labels() -> None:
    features: list[dict[str, Any]] = [{**FEATURES[0], "loss_weights": [1.0, 1.0, 0.5]}, *FEATURES[1:]]
    assert pack(features)["weights"].tolist() == [0.5, 1.0]
    assert "weights" not in pack(FEATURES)


def test_padding_gives_the_same_examples() -> None:
    padded = pad(pack(FEATURES))
    assert padded["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert padded["labels"].tolist() == [[-100, -100, 7], [-100, -100, -100], [-100, 10, -100]]


def test_values_are_summed_for_each_sequence() -> None:
    assert per_sequence(pack(FEATURES), torch.tensor([2.0, 3.0])).tolist() == [2.0, 0.0, 3.0]


@pytest.mark.parametrize("lengths", [[4, 3], [1, 1]])
def test_a_batch_without_labels_is_possible(lengths: list[int]) -> None:
    batch = pack([{"input_ids": [1] * length, "labels": [-100] * length} for length in lengths])
    assert batch["rows"].numel() == 0
