"""Which word is the configuration file, and that all others reach the configuration as they were typed."""

import os
from pathlib import Path

import pytest

from ft.cli.compose import split_config, split_names


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("config.yaml", "config.yaml"),
        ("config.yaml learning_rate=1e-5", "config.yaml"),
        ("--learning_rate 5e-4 config.yaml", "config.yaml"),
        ("--learning_rate=5e-4 config.yml", "config.yml"),
        ("learning_rate=5e-4 sub/config.JSON --do_train", "sub/config.JSON"),
        ("config.yaml --do_train --dataset x", "config.yaml"),
        ("--do_train config.yaml", "config.yaml"),
        ("--overwrite_cache config.yaml --dataset x", "config.yaml"),
        ("--do_train true config.yaml", "config.yaml"),
        ("--plot_loss lora_rank=8 config.yaml", "config.yaml"),
        ("--max_steps -1 config.yaml", "config.yaml"),
        ("--dataset facts.json config.yaml other.yaml", "config.yaml"),
        ("--dataset facts.json --deepspeed ds.json", None),
        ("dataset=facts.json", None),
        ("--dataset=facts.json", None),
        ("config.toml", None),
        ("", None),
    ],
)
def test_split_config(words, config):
    words = words.split()
    found, others = split_config(words)
    assert found == (None if config is None else Path(config))
    expected = list(words)
    if config:
        expected.remove(config)
    assert others == expected


def test_only_the_file_is_taken_when_its_name_stands_twice():
    assert split_config(["--dataset", "a.json", "a.json"]) == (Path("a.json"), ["--dataset", "a.json"])


def test_split_names():
    assert split_names(["a, b", "", "c"]) == ["a", "b", "c"]
    assert split_names(None) == []


@pytest.mark.parametrize("command", ["run", "plan", "schema"])
def test_words_pass_typer_unchanged(ft, planning, command):
    words = "--learning_rate 5e-4 config.yaml --do_train --lora-target q,v -x key=value --max_steps -1 --fp16=false"
    ft(command, *words.split(), "--plugin", "a,b", "--no-plugin", "x", "--plugin", "lab/c.py", "--traceback")
    ((config, arguments, plugins, excluded, environ),) = planning.asked
    assert config == Path("config.yaml")
    assert arguments == [word for word in words.split() if word != "config.yaml"]
    assert (plugins, excluded) == (["a", "b", "lab/c.py"], ["x"])
    assert environ is os.environ


def test_options_of_typer_may_stand_anywhere(ft, planning):
    ft("run", "--plugin=a", "config.yaml", "--stage", "sft", "--no_plugin", "b", "--do_train")
    ((config, arguments, plugins, excluded, _),) = planning.asked
    assert (config, arguments, plugins, excluded) == (
        Path("config.yaml"),
        ["--stage", "sft", "--do_train"],
        ["a"],
        ["b"],
    )


def test_a_value_that_looks_like_an_option_can_be_given(ft, planning):
    ft("run", "--", "--json", "--plugin", "x")
    assert planning.asked[0][1] == ["--json", "--plugin", "x"]


def test_run_carries_out_what_was_planned(ft, planning):
    assert ft("run", "config.yaml").exit_code == 0
    assert [ran[:2] for ran in planning.ran] == [planning.outcome]


def test_plan_carries_out_nothing(ft, planning):
    ft("plan", "config.yaml")
    assert planning.ran == []
