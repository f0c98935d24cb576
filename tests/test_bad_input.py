"""Every kind of bad input, typed as a user types it: one screen with what, where, why and remedy, and its exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ft.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from ft.testing.pytest_plugin import PluginMaker

SCREEN = 40
GOOD = {"instruction": "What is it?", "output": "It is a stone."}


@dataclass(frozen=True)
class Case:
    """Lines of the data file, keys of the configuration besides the common ones, and what must be said."""

    code: int
    says: tuple[str, ...]
    data: tuple[Any, ...] = (GOOD,)
    keys: dict[str, Any] = field(default_factory=dict)


CASES = {
    "unknown key": Case(2, ("lora_rnak", "config.yaml:6", "lora_rank"), keys={"lora_rnak": 4}),
    "wrong type": Case(2, ("learning_rate", "config.yaml:6", "fast"), keys={"learning_rate": "fast"}),
    "wrong choice": Case(2, ("cosin", "config.yaml:6", "'cosine'"), keys={"lr_scheduler_type": "cosin"}),
    "out of bounds": Case(2, ("lora_rank", "config.yaml:6"), keys={"lora_rank": 0}),
    "unknown stage": Case(3, ("sftt", "'sft'"), keys={"stage": "sftt"}),
    "unknown adapter": Case(3, ("lorra", "'lora'"), keys={"finetuning_type": "lorra"}),
    "missing file": Case(4, ("nowhere.json",), keys={"dataset": "nowhere.json"}),
    "missing model": Case(2, ("./no/such/model",), keys={"model_name_or_path": "./no/such/model"}),
    "malformed JSON line": Case(4, ("rows.jsonl:2",), data=(GOOD, '{"instruction": "a", ')),
    "missing column": Case(4, ("rows.jsonl:2", "output"), data=(GOOD, {"instruction": "a"})),
    "empty target": Case(4, ("rows.jsonl:2",), data=(GOOD, {**GOOD, "output": ""})),
    "not text": Case(4, ("rows.jsonl:2",), data=(GOOD, {**GOOD, "output": 7})),
    "wrong role order": Case(
        4,
        ("rows.jsonl:1",),
        data=({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},),
    ),
    "unknown role": Case(
        4,
        ("rows.jsonl:1", "robot"),
        data=({"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]},),
    ),
    "nobody predicts": Case(2, ("no selected plugin predicts",), keys={"do_predict": True, "stage": "pt"}),
    "predictions of nothing": Case(2, ("do_predict asks for evaluation", "need each other"), keys={"do_predict": True}),
    "nothing to evaluate on": Case(
        2, ("no data to evaluate on", "eval_strategy", "val_size"), keys={"eval_strategy": "epoch"}
    ),
    "nothing to do": Case(2, ("nothing to do", "config.yaml:6"), keys={"do_train": False}),
    "best of what is not evaluated": Case(
        2,
        ("whenever a checkpoint is saved", "save_strategy is steps"),
        keys={"load_best_model_at_end": True, "eval_strategy": "epoch", "val_size": 1},
    ),
    "best between two evaluations": Case(
        2,
        ("not a multiple of eval_steps", "config.yaml:"),
        keys={
            "load_best_model_at_end": True,
            "eval_strategy": "steps",
            "eval_steps": 7,
            "save_steps": 10,
            "val_size": 1,
        },
    ),
    "empty data set": Case(4, ("rows.jsonl",), data=()),
    "longer than cutoff_len, and drop": Case(
        4,
        ("longer than cutoff_len", "raise cutoff_len"),
        data=({**GOOD, "output": "word " * 400},),
        keys={"truncation": "drop", "cutoff_len": 64},
    ),
    "unknown template": Case(4, ("lama3", "llama3"), keys={"template": "lama3"}),
    "unmatched lora_target": Case(2, ("q_porj", "q_proj"), keys={"lora_target": "q_porj"}),
    "contradiction": Case(2, ("train_on_prompt", "mask_history"), keys={"train_on_prompt": True, "mask_history": True}),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "model").symlink_to(tiny_model_dir)
    return tmp_path


def write(folder: Path, case: Case) -> None:
    lines = (line if isinstance(line, str) else json.dumps(line) for line in case.data)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    common = {"model_name_or_path": "./model", "dataset": "rows.jsonl", "output_dir": "out", "max_steps": 1}
    values = {**common, "use_cpu": True, **case.keys}
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))


def check(result: Any, code: int, says: tuple[str, ...]) -> None:
    assert result.exit_code == code, result.stderr
    assert [part for part in says if part not in result.stderr] == [], result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= SCREEN
    assert any(label in result.stderr for label in ("remedy:", "where:")), result.stderr


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(folder: Path, case: Case) -> None:
    write(folder, case)
    check(CliRunner().invoke(app, ["run", "config.yaml"]), case.code, case.says)
    assert not (folder / "out" / "adapter_model.safetensors").exists()


def test_two_plugins_claim_a_name(folder: Path, fake_plugin: PluginMaker) -> None:
    write(folder, Case(3, ()))
    hook = "@hookimpl\ndef ft_check(plan):\n    return []\n"
    for distribution in ("ft-one", "ft-two"):
        fake_plugin("parrot", hook, distribution=distribution)
    result = CliRunner().invoke(app, ["run", "config.yaml", "--plugin", "parrot"])
    check(result, 3, ("'parrot'", "ft-one 1.0", "ft-two 1.0", "uninstall one"))


def test_a_missing_package(folder: Path, fake_plugin: PluginMaker) -> None:
    write(folder, Case(5, ()))
    remedy = "pip install 'ft-parrot[seeds]'"
    fake_plugin("parrot", f'ft_requires = {{"sunflower": {remedy!r}}}\n@hookimpl\ndef ft_check(plan):\n    return []\n')
    check(CliRunner().invoke(app, ["run", "config.yaml", "--plugin", "parrot"]), 5, ("sunflower", "parrot", remedy))


def test_a_cut_is_counted_and_told(folder: Path) -> None:
    write(folder, Case(0, (), ({**GOOD, "output": "word " * 400}, GOOD), {"cutoff_len": 64}))
    result = CliRunner().invoke(app, ["run", "config.yaml"])
    assert result.exit_code == 0, result.stderr
    assert "1 cut" in result.stdout
    assert json.loads((folder / "out" / "run.json").read_text())["data"]["train"]["truncated"] == 1


def test_bad_rows_are_left_out_and_counted_when_asked(folder: Path) -> None:
    write(folder, Case(0, (), (GOOD, '{"instruction": ', {"instruction": "a"}, GOOD), {"on_bad_row": "skip"}))
    result = CliRunner().invoke(app, ["run", "config.yaml"])
    assert result.exit_code == 0, result.stderr
    assert sum(json.loads((folder / "out" / "run.json").read_text())["data"]["train"]["dropped"].values()) == 2
    assert result.stdout.count("1 dropped") == 2
