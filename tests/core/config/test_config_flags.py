"""The command line, the environment, and which of the levels wins."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from ft.config import gather

if TYPE_CHECKING:
    from pathlib import Path

    from ft.config.settings import Settings

OLD_NOTES = shlex.split("""--stage sft --model_name_or_path M --do_train --dataset d --template default
    --finetuning_type lora --lora_target q_proj,v_proj --output_dir o --overwrite_cache
    --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --lr_scheduler_type cosine --logging_steps 10
    --save_steps 100 --learning_rate 5e-4 --num_train_epochs 1 --max_samples 100 --plot_loss --fp16""")


def values(settings: Settings) -> dict[str, object]:
    return {key: given.value for level in settings.levels for key, given in level.items()}


def test_the_command_line_of_old_notes() -> None:
    settings = gather(None, OLD_NOTES, {})
    assert not settings.problems
    assert values(settings) == {
        "stage": "sft", "model_name_or_path": "M", "do_train": True, "dataset": "d", "template": "default",
        "finetuning_type": "lora", "lora_target": "q_proj,v_proj", "output_dir": "o", "overwrite_cache": True,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine",
        "logging_steps": 10, "save_steps": 100, "learning_rate": 5e-4, "num_train_epochs": 1, "max_samples": 100,
        "plot_loss": True, "fp16": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=1", "--b", "2", "--c=3", "--d"], {"a": 1, "b": 2, "c": 3, "d": True}),
        (["--d", "a=1"], {"d": True, "a": 1}),
        (["--max_steps", "-1"], {"max_steps": -1}),
        (["--learning-rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--text", "-x"], {"text": "-x"}),
        (["--optim_args=rank=64,gap=2"], {"optim_args": "rank=64,gap=2"}),
        (["url=http://h/?a=b"], {"url": "http://h/?a=b"}),
        (["--lr_scheduler_kwargs", '{"min_lr": 1e-5}'], {"lr_scheduler_kwargs": {"min_lr": 1e-5}}),
        (["--targets", "[a, 'b c']"], {"targets": ["a", "b c"]}),
        (["--name", '"8"'], {"name": "8"}),
        (["--system", "[INST] be kind"], {"system": "[INST] be kind"}),
        (["--do_train", "True", "--x", "no"], {"do_train": True, "x": "no"}),
        (["empty="], {"empty": None}),
        (["multi=two\nlines"], {"multi": "two\nlines"}),
    ],
)
def test_forms_of_flags(words: list[str], expected: dict[str, object]) -> None:
    settings = gather(None, words, {})
    assert not settings.problems
    assert values(settings) == expected


def test_a_flag_says_how_it_was_written() -> None:
    level = gather(None, ["a=1", "--b", "2"], {}).levels[-1]
    assert [str(given.source) for given in level.values()] == ["command line: a", "--b"]


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (["stray"], "'stray' does not belong to any key", "key=value"),
        (["--report_to", "wandb", "tensorboard"], "'tensorboard'", "--report_to wandb,tensorboard"),
        (["-x", "1"], "'-x'", "key=value"),
        (["--"], "'--'", "key=value"),
        (["--a", "1", "a=2"], "'a' is given twice", "keep one"),
    ],
)
def test_words_that_give_no_key_are_problems(words: list[str], what: str, remedy: str) -> None:
    problem = gather(None, words, {}).problems[0]
    assert what in str(problem)
    assert remedy in problem.remedy


def test_environment_keys_and_reserved_names() -> None:
    environ = {"FT_LEARNING_RATE": "1e-4", "FT_CACHE_DIR": "/c", "FT_DISABLE_PLUGINS": "x", "PATH": "p", "FTX": "1"}
    assert values(gather(None, [], environ)) == {"learning_rate": 1e-4}
    assert gather(None, [], environ).levels[1]["learning_rate"].source.where == "FT_LEARNING_RATE"


def test_command_line_over_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\nb: 1\nc: 1\n")
    settings = gather(path, ["a=3"], {"FT_A": "2", "FT_B": "2"})
    assert values(settings) == {"a": 3, "b": 2, "c": 1}
    assert not settings.problems
    assert values(settings.only({"b"})) == {"b": 2}
