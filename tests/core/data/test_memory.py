"""Memory is flat in the number of rows; ``benchmarks/tokenise.py --million`` shows it for a whole process."""

import json
import tracemalloc

import pytest

from ft.data import template_for
from ft.lifecycle import prepare_data
from ft.planning import make_plan
from ft_hookspecs import Run


@pytest.fixture
def peak(tmp_path, tokenizer, monkeypatch):
    """The most bytes of Python's objects at a time while so many rows become a data set."""

    monkeypatch.setattr("ft.data.cache.SAMPLES_AT_ONCE", 50)
    monkeypatch.setattr("ft.data.cache.PIECE", 1 << 16)

    def peak(rows, *, traced=True):
        data = tmp_path / f"{rows}.jsonl"
        with data.open("w") as file:
            for row in range(rows):
                question = {"role": "user", "content": f"Which stone is number {row}?"}
                answer = {"role": "assistant", "content": f"Stone {row * 7919 % 104729}. " * 8}
                file.write(json.dumps({"messages": [question, answer]}) + "\n")
        keys = {"model_name_or_path": tmp_path, "dataset": data, "cache_dir": tmp_path / "cache", "val_size": 0.1}
        keys |= {"output_dir": tmp_path / "out", "preprocessing_batch_size": 50}
        plan, plugins = make_plan(None, [f"{key}={value}" for key, value in keys.items()])
        run = Run(plan)
        run.tokenizer, run.template = tokenizer, template_for(plugins.hook, plan, tokenizer)
        if traced:  # it makes imports slow
            tracemalloc.start()
        prepare_data(run, plugins)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(run.train_dataset) + len(run.eval_datasets["eval"]) == rows
        return highest

    return peak


def test_five_times_the_rows_take_no_more_memory(peak):
    peak(100, traced=False)  # what is imported and cached the first time
    small, large = peak(300), peak(1500)
    assert large < small + 200_000, (small, large)  # 1,200 examples alone would take 1.5 MB
