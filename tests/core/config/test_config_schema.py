"""The JSON Schema that editors use."""

from __future__ import annotations

import json

from ft.config import json_schema, trainer_options
from ft.options import DataOptions, ModelOptions, RunOptions
from ft_plugins.selectors import OPTIONS

MODELS = [RunOptions, ModelOptions, DataOptions, OPTIONS]


def test_one_schema_for_the_whole_composition() -> None:
    claimed = frozenset(key for model in MODELS for key in model.model_fields)
    schema = json_schema([*MODELS, trainer_options(claimed)])
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["model_name_or_path"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    bounded = {"type": "integer", "default": 2048, "exclusiveMinimum": 0}
    assert bounded.items() <= properties["cutoff_len"].items()
    assert "cosine" in properties["lr_scheduler_type"]["enum"]
    assert properties["learning_rate"]["default"] == 5e-5
    assert all(each.get("description") for each in properties.values())
    assert all("default" in each for key, each in properties.items() if key != "model_name_or_path")
    json.dumps(schema)


def test_lists_may_be_text_with_commas() -> None:
    properties = json_schema(MODELS)["properties"]
    assert {"type": "string"} in properties["dataset"]["anyOf"]
    assert {"type": "string"} in properties["plugins"]["anyOf"]
    assert properties["plugins"]["default"] == []
