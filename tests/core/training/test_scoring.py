"""Texts that a reward model cannot read: refused, or, where a policy wrote them, cut and said."""

from __future__ import annotations

import pytest

from ft.errors import DataError
from ft.testing import tiny_model, tiny_tokenizer
from ft.training import ValueHead
from ft.training.scoring import Scorer

LONG = "a b c d e f g h i j k l m n o p q r s t u v w x y z"


def scorer(**kwargs) -> Scorer:
    model = tiny_model(max_position_embeddings=16)
    return Scorer(model, ValueHead(model.config.hidden_size), tiny_tokenizer(), **kwargs)


def test_a_text_longer_than_the_context_is_refused_with_its_place():
    with pytest.raises(DataError, match="tokens") as error:
        scorer()([LONG], ["answers.jsonl:7"])
    assert error.value.where == "answers.jsonl:7"


def test_what_a_policy_wrote_is_cut_and_said_and_others_are_as_they_were():
    said: list[str] = []
    cutting = scorer(tell_cuts=said.append)
    ids = tiny_tokenizer()(LONG, add_special_tokens=False)["input_ids"]
    both = cutting([LONG, "a b"])
    assert len(said) == 1
    assert "16 tokens" in said[0]
    assert both[1] == pytest.approx(cutting(["a b"])[0].item(), abs=1e-6)
    expected = cutting._scores([[*ids[:15], ids[-1]]])
    assert both[0] == pytest.approx(expected[0].item(), abs=1e-6)
