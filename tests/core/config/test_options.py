"""The core's option models."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ft.options import DataOptions, GenerationOptions, ModelOptions, RunOptions, cache_folder


@pytest.mark.parametrize("model", [ModelOptions, DataOptions, GenerationOptions, RunOptions])
def test_every_key_is_described(model: type[ModelOptions]) -> None:
    assert all(info.description for info in model.model_fields.values())


@pytest.mark.parametrize(
    "values",
    [{"val_size": -0.1}, {"val_size": 1.5}, {"cutoff_len": 0}, {"max_samples": 0}, {"truncation": "middle"},
     {"val_size": 0.1, "eval_dataset": ["e"]}, {"unknown": 1}],
)  # fmt: skip
def test_bounds_of_data_options(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataOptions.model_validate(values)


def test_defaults_of_the_published_names() -> None:
    data, run = DataOptions(), RunOptions()
    assert (data.cutoff_len, data.dataset_dir, data.val_size, data.enable_thinking) == (2048, "data", 0.0, True)
    assert (run.do_train, run.do_eval, run.do_predict, run.output_dir) == (True, False, False, None)
    assert DataOptions(val_size=10).val_size == 10


def test_the_cache_folder() -> None:
    assert cache_folder("/c", {"FT_CACHE_DIR": "/e"}) == Path("/c")
    assert cache_folder(None, {"FT_CACHE_DIR": "/e", "XDG_CACHE_HOME": "/x"}) == Path("/e")
    assert cache_folder(None, {"XDG_CACHE_HOME": "/x"}) == Path("/x/ft")
    assert cache_folder(None, {}) == Path.home() / ".cache" / "ft"
