"""A plugin that is taken out takes with it what asks for it; the command line outranks the environment and the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ft.errors import PluginError, Problems
from ft.planning import compose

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ft.config import Resolved

MINE = """
from ft_hookspecs import PluginOptions, hookimpl

class Options(PluginOptions):
    mine_share: float = 0.5

@hookimpl
def ft_options():
    return Options
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)


def chosen(
    file: str, *words: str, plugins: Sequence[str] = (), out: Sequence[str] = (), **environ: str
) -> tuple[set[str], Resolved]:
    """The names of the selected plugins, and the values, of a file and what stands beside it."""
    from pathlib import Path

    Path("c.yaml").write_text(f"model_name_or_path: m\n{file}")
    composition = compose(Path("c.yaml"), words, plugins, out, environ)
    return {info.name for info in composition.manager.infos}, composition.resolve()


@pytest.mark.parametrize(
    ("file", "name", "key", "value"),
    [
        ("plugins: [muon, mlflow]", "mlflow", "plugins", ["muon"]),
        ("report_to: tensorboard,mlflow", "mlflow", "report_to", ["tensorboard"]),
        ("use_galore: true", "galore", "use_galore", False),
        ("use_liger_kernel: true", "liger", "enable_liger_kernel", False),
        ("rope_scaling: linear", "rope_scaling", "rope_scaling", None),
        ("plugins: [mine.py]", "mine", "plugins", []),
    ],
)
@pytest.mark.parametrize("flag", [True, False])
def test_what_the_file_asks_for_is_taken_out(file: str, name: str, key: str, value: object, flag: bool) -> None:
    names, found = chosen(file, out=[name]) if flag else chosen(file, FT_DISABLE_PLUGINS=name)
    exclusion = f"--no-plugin {name}" if flag else f"FT_DISABLE_PLUGINS={name}"
    assert name not in names
    assert found.values[key] == value
    (note,) = [note for note in found.notes if "has no effect" in note and "takes" in note]
    assert note.startswith("c.yaml:2: ")
    assert f"has no effect: {exclusion} takes " in note
    assert f":{name} out" in note


def test_several_keys_that_ask_for_it_are_all_passed_over() -> None:
    names, found = chosen("torch_compile: true\ntorch_compile_backend: eager\n", out=["compile"])
    assert "compile" not in names
    assert (found.values["torch_compile"], found.values["torch_compile_backend"]) == (False, None)
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("file", "name", "key"),
    [
        ("use_galore: true\ngalore_rank: 4", "galore", "galore_rank"),
        ("plugins: [mine.py]\nmine_share: 0.1", "mine", "mine_share"),
        ("disable_tqdm: true\nplugins: [ask]\nask_questions: q.jsonl", "ask", "ask_questions"),
    ],
)
def test_the_options_of_what_is_taken_out_are_passed_over_with_a_note(file: str, name: str, key: str) -> None:
    line = 1 + next(number for number, text in enumerate(file.splitlines(), 1) if text.startswith(key))
    _, found = chosen(file, out=[name])
    assert key not in found.values
    assert any(note.startswith(f"c.yaml:{line}: {key} has no effect: --no-plugin {name} ") for note in found.notes)


def test_an_option_in_the_same_place_is_still_refused() -> None:
    with pytest.raises(Problems, match="'galore_rank' is an option of the plugin optimizers:galore"):
        chosen("use_galore: true", "galore_rank=4", out=["galore"])


def test_an_option_that_another_plugin_declares_too_stays() -> None:
    _, found = chosen("lora_rank: 4", out=["oft"])
    assert found.values["lora_rank"] == 4


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        ({"plugins": ["galore"], "out": ["galore"]}, {}),
        ({"words": ["use_galore=true"], "out": ["galore"]}, {}),
        ({}, {"FT_USE_GALORE": "true", "FT_DISABLE_PLUGINS": "galore"}),
    ],
)
def test_one_place_that_asks_for_both_is_refused(words: dict[str, list[str]], environ: dict[str, str]) -> None:
    given = {key: value for key, value in words.items() if key != "words"}
    with pytest.raises(PluginError, match="is both selected and taken out"):
        chosen("lora_rank: 4", *words.get("words", ()), **given, **environ)  # type: ignore[arg-type]


def test_the_command_line_outranks_the_environment() -> None:
    names, found = chosen("lora_rank: 4", plugins=["muon"], FT_DISABLE_PLUGINS="muon")
    assert "muon" in names
    assert "FT_DISABLE_PLUGINS=muon does not take optimizers:muon out: the command line asks for it" in found.notes


@pytest.mark.parametrize(
    ("file", "name", "key"),
    [
        ("lora_rank: 4", "sft", "stage"),
        ("finetuning_type: full", "full", "finetuning_type"),
        ("quantization_bit: 4", "bnb", "quantization_bit"),
        ("quantization_bit: 4\nquantization_method: hqq", "hqq", "quantization_method"),
    ],
)
def test_what_decides_what_trains_is_not_taken_out(file: str, name: str, key: str) -> None:
    with pytest.raises(PluginError, match="cannot be taken out") as caught:
        chosen(file, out=[name])
    assert caught.value.remedy == f"give {key} another value, or drop --no-plugin {name}"


def test_all_loggers_but_one() -> None:
    names, _ = chosen("report_to: all", "report_to=all", out=["tensorboard"])
    assert "tensorboard" not in names
