"""The options of TrainingArguments as read from its source, compared with the class itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from ft.config import trainer_options
from ft.config.trainer_args import AT_LEAST, BELOW_ONE
from ft.config.types import choices
from ft.options import RunOptions

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
UNWRITABLE = {"parallelism_config"}


def test_every_field_with_its_default() -> None:
    options = trainer_options().model_fields
    assert set(options) == set(FIELDS) - UNWRITABLE
    for name, info in options.items():
        default = FIELDS[name].default
        expected = FIELDS[name].default_factory() if default is dataclasses.MISSING else default
        assert info.get_default(call_default_factory=True) == expected, name
        assert info.description, name


def test_choices_come_from_the_enumerations() -> None:
    options = trainer_options().model_fields
    assert choices(options["lr_scheduler_type"].annotation) == [each.value for each in SchedulerType]
    assert choices(options["optim"].annotation) == [each.value for each in OptimizerNames]
    assert choices(options["eval_strategy"].annotation) == ["no", "steps", "epoch"]
    assert choices(options["save_strategy"].annotation) == ["no", "steps", "epoch", "best"]
    assert "group_by_length" in choices(options["train_sampling_strategy"].annotation)


def test_stated_bounds_are_of_fields_that_exist() -> None:
    assert {*AT_LEAST, *BELOW_ONE} <= set(FIELDS)


def test_claimed_keys_are_left_out() -> None:
    claimed = frozenset(RunOptions.model_fields)
    assert not claimed & set(trainer_options(claimed).model_fields)
    assert "learning_rate" in trainer_options(claimed).model_fields


def test_a_default_instance_is_valid() -> None:
    assert trainer_options()().model_dump()["learning_rate"] == 5e-5


MEASURE = """
import json, sys, time
import ft.options
from ft.config import trainer_options
before = time.process_time()
trainer_options(frozenset({"output_dir"}))
print(json.dumps({"seconds": time.process_time() - before, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def measured() -> list[dict[str, object]]:
    """Three fresh interpreters: a busy machine slows one of them down, seldom all."""
    runs = (subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True) for _ in "123")
    return [json.loads(run.stdout) for run in runs]


def test_reading_imports_no_heavy_package(measured: list[dict[str, list[str]]]) -> None:
    heavy = {"torch", "transformers", "accelerate", "datasets", "numpy", "ruamel.yaml", "rapidfuzz"}
    assert not heavy & set(measured[0]["modules"])


def test_reading_costs_under_100_ms(measured: list[dict[str, float]]) -> None:
    assert min(run["seconds"] for run in measured) < 0.1
