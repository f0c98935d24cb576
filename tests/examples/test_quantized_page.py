"""What docs/quantizers.md says of learning is what the runs recorded, and QLoRA learns what LoRA learns."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quantized():
    spec = importlib.util.spec_from_file_location("quantized", ROOT / "benchmarks" / "quantized.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_results_say(quantized):
    assert quantized.PAGE.read_text(encoding="utf-8") == quantized.page(quantized.results())


def test_each_reached_nine_tenths_of_what_lora_reached(quantized):
    figures = quantized.results()
    assert figures.keys() == quantized.RUNS.keys()
    assert {name: share for name in figures if (share := quantized.share(figures, name)) < quantized.LEAST} == {}
    assert all(each["bytes_after"] < each["bytes_before"] for each in figures.values() if "bytes_after" in each)


@pytest.mark.slow
def test_the_real_model_learns_in_four_bits(quantized):
    figures = {name: quantized.carry_out(name) for name in (quantized.PLAIN, "bnb-4")}
    assert quantized.share(figures, "bnb-4") >= quantized.LEAST
