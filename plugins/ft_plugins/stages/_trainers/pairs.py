"""Batches of pairs, for the trainers that compare two answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ft.data import IGNORE
from ft.training import pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ft.training import PackedBatch

SIDES: Final = ("chosen", "rejected")


def pack_pairs(features: Sequence[Mapping[str, Any]]) -> PackedBatch:
    """Pairs as one row in which each prompt stands once; its sequences are chosen and rejected in turn.

    An answer ends at its last label: the token at which it is scored, and behind which nothing is learned.
    """
    return pack([as_branches(feature) for feature in features])


def number_of_pairs(batch: PackedBatch) -> int:
    """The items of such a batch."""
    return (len(batch["cu_seqlens"]) - 1) // 2


def as_branches(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A pair as a prompt with two branches."""
    known = {"reference": feature["reference"]} if "reference" in feature else {}
    sides = [_branch(feature[f"{side}_ids"], feature[f"{side}_labels"]) for side in SIDES]
    return {"prompt_ids": feature["prompt_ids"], "branches": sides, **known}


def _branch(ids: Sequence[int], labels: Sequence[int]) -> dict[str, Sequence[int]]:
    end = max((place + 1 for place, label in enumerate(labels) if label != IGNORE), default=len(ids))
    return {"input_ids": ids[:end], "labels": labels[:end]}
