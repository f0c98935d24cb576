"""BLEU and ROUGE against the figures of nltk (method 3) and Google's rouge-score for the same words."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ft_plugins.stages import _scores
from ft_plugins.stages._scores import scores, similarity, words

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS = [
    ("the cat sat on the mat", "the cat is on the mat today", (0.321594, 0.769231, 0.545455, 0.769231)),
    ("Stone a is red.", "Stone a is red.", (1.0, 1.0, 1.0, 1.0)),
    ("blue blue blue", "the stone is blue", (0.161865, 0.285714, 0.0, 0.285714)),
    ("a b c d e f g h", "a b x d e y g h i j", (0.148986, 0.666667, 0.375, 0.666667)),
    ("entirely different words here", "nothing in common at all", (0.0, 0.0, 0.0, 0.0)),
    ("one two", "one two three four five six", (0.080471, 0.5, 0.333333, 0.5)),
    (
        "the quick brown fox jumps over the lazy dog again",
        "the quick brown dog jumps over the lazy fox",
        (0.404553, 0.947368, 0.588235, 0.736842),
    ),
]


@pytest.mark.parametrize(("prediction", "label", "expected"), PAIRS)
def test_figures_are_those_of_the_libraries(prediction: str, label: str, expected: tuple[float, ...]) -> None:
    assert tuple(similarity(prediction.split(), label.split()).values()) == pytest.approx(expected, abs=1e-6)


def test_empty_answers() -> None:
    assert set(similarity([], ["a"]).values()) == {0.0}
    assert set(similarity([], []).values()) == {1.0}
    assert scores([], []) == {}


def test_means_in_percent() -> None:
    assert scores(["a b", "c"], ["a b", "d"])["rouge-1"] == 50.0


@pytest.fixture
def segmenter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if jieba were installed, or as if it were not."""
    _scores._jieba.cache_clear()
    pretended = SimpleNamespace(cut=lambda text: [text[:2], text[2:]], setLogLevel=lambda _: None)
    monkeypatch.setitem(sys.modules, "jieba", pretended)
    monkeypatch.setattr(_scores, "find_spec", lambda _: request.param)
    yield
    _scores._jieba.cache_clear()


@pytest.mark.parametrize("segmenter", [None], indirect=True)
@pytest.mark.usefixtures("segmenter")
def test_chinese_is_cut_into_characters() -> None:
    assert words("The 石头红色 is 3 cm.") == ["The", "石", "头", "红", "色", "is", "3", "cm."]


@pytest.mark.parametrize("segmenter", ["found"], indirect=True)
@pytest.mark.usefixtures("segmenter")
def test_chinese_is_cut_by_jieba_where_it_is_installed() -> None:
    assert words("石头红色 ok") == ["石头", "红色", "ok"]
