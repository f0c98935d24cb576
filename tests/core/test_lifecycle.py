"""A whole run on a tiny model: what it leaves, what it refuses, and what it must not destroy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ft import lifecycle
from ft.errors import ConfigError, DataError, FtError, PluginError, Problems, TrainingError
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
ROWS = [
    {"instruction": f"What is the colour of stone {name}?", "output": f"Stone {name} is {colour}."}
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "stones.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.fixture
def arguments(tiny_model_dir: Path, data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def build(**changes: Any) -> list[str]:
        values = {
            "model_name_or_path": tiny_model_dir,
            "dataset": data,
            "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache",
            "finetuning_type": "lora",
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "use_cpu": "true",
            **changes,
        }
        return [f"{key}={value}" for key, value in values.items()]

    return build


def execute(words: list[str], plugins: tuple[str, ...] = ()) -> Run:
    return run_lifecycle(*make_plan(None, words, plugins), print)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_its_record(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute(arguments(num_train_epochs=6, plot_loss="true"))
    out = tmp_path / "out"
    rows = rows_of(out)
    losses = [row["loss"] for row in rows if row["event"] == "train"]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.3
    assert rows[-1]["event"] == "final"
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["data"]["train"]["rows"] == len(ROWS)
    assert record["sources"]["learning_rate"].startswith("learning_rate=") or record["sources"]["learning_rate"]
    assert {plugin["id"] for plugin in record["plugins"]} >= {"stages:sft", "adapters:lora", "loggers:jsonl"}
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "loss.png", "tokenizer.json"):
        assert (out / name).exists(), name


@pytest.mark.parametrize("stage", ["sft", "pt"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_stages_and_adapters_compose(
    arguments: Callable[..., list[str]], tmp_path: Path, stage: str, adapter: str
) -> None:
    changes: dict[str, Any] = {"stage": stage, "finetuning_type": adapter, "max_steps": 4, "learning_rate": 3e-3}
    if stage == "pt":
        text = tmp_path / "text.jsonl"
        text.write_text("".join(json.dumps({"text": row["output"] * 4}) + "\n" for row in ROWS))
        changes |= {"dataset": text, "cutoff_len": 64}
    run = execute(arguments(**changes))
    losses = [row["loss"] for row in rows_of(tmp_path / "out") if row["event"] == "train"]
    assert losses[-1] < losses[0]
    assert run.changes[-1][1].summary


def test_the_last_step_is_logged(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute(arguments(max_steps=5, logging_steps=3))
    assert [row["step"] for row in rows_of(tmp_path / "out") if row["event"] == "train"] == [3, 5]


def test_evaluation_before_and_after(arguments: Callable[..., list[str]], data: Path, tmp_path: Path) -> None:
    execute(arguments(eval_dataset=data, eval_on_start="true", num_train_epochs=6))
    rows = rows_of(tmp_path / "out")
    assert rows[0]["event"] == "eval"
    assert rows[0]["eval_loss"] == rows[-1]["eval_loss_before"]
    assert rows[-1]["eval_loss"] < rows[-1]["eval_loss_before"] - 0.3


def test_a_best_metric_that_nobody_measures(arguments: Callable[..., list[str]], data: Path) -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": "true"}
    with pytest.raises(ConfigError, match=r"eval_accuracy is not measured[\s\S]*eval_loss"):
        execute(arguments(eval_dataset=data, max_steps=2, metric_for_best_model="accuracy", **steps))


def test_the_last_evaluation_is_not_made_twice(arguments: Callable[..., list[str]], data: Path, tmp_path: Path) -> None:
    execute(arguments(eval_dataset=data, eval_strategy="epoch"))
    rows = rows_of(tmp_path / "out")
    assert [row["step"] for row in rows if row["event"] == "eval"] == [2, 4]
    assert rows[-1]["eval_loss"] == rows[-2]["eval_loss"]


def test_resuming_goes_on_where_the_checkpoint_stands(
    arguments: Callable[..., list[str]], data: Path, tmp_path: Path
) -> None:
    keys = {"eval_dataset": data, "eval_on_start": "true", "save_steps": 2, "max_steps": 4, "lora_dropout": 0.1}
    execute(arguments(**keys))
    whole = rows_of(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"torn")
    run = execute(arguments(**keys, resume_from_checkpoint="true"))
    assert run.resumed_step == 2
    assert any("checkpoint-4" in line for line in run.decisions)
    again = rows_of(tmp_path / "out")
    assert [(row["event"], row["step"]) for row in again] == [(row["event"], row["step"]) for row in whole]
    assert [row.get("loss") for row in again] == [row.get("loss") for row in whole]
    assert again[-1]["eval_loss"] == whole[-1]["eval_loss"]
    assert again[-1]["eval_loss_before"] == whole[-1]["eval_loss_before"]


def test_an_output_dir_with_something_in_it_is_refused(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(Problems, match="not empty") as caught:
        execute(arguments())
    assert caught.value.exit_code == 2
    assert "overwrite_output_dir" in str(caught.value)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_overwriting_keeps_what_is_not_ours(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute(arguments(max_steps=1, save_steps=1))
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    execute(arguments(max_steps=2, overwrite_output_dir="true", save_strategy="no"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "out" / "checkpoint-1").exists()
    assert [row["step"] for row in rows_of(tmp_path / "out") if row["event"] == "train"] == [1, 2]


def test_evaluating_alone_takes_nothing_of_the_run_before(
    arguments: Callable[..., list[str]], data: Path, tmp_path: Path
) -> None:
    execute(arguments(save_steps=1, max_steps=1, plot_loss=True))
    execute(arguments(do_train=False, do_eval=True, eval_dataset=data, overwrite_output_dir=True))
    out = tmp_path / "out"
    assert (out / "checkpoint-1" / "manifest.json").exists()
    assert (out / "loss.png").exists()
    assert [row["event"] for row in rows_of(out)].count("final") == 2


def test_a_second_stage_is_refused(arguments: Callable[..., list[str]]) -> None:
    with pytest.raises(Problems, match="only one of sft and dpo can be the stage"):
        make_plan(None, arguments(), plugins=("stages:dpo",))


def test_who_asks_for_evaluation_trains_only_by_do_train(arguments: Callable[..., list[str]], data: Path) -> None:
    words = [word for word in arguments(eval_dataset=data) if not word.startswith("dataset=")]
    assert make_plan(None, [*words, "do_eval=true"])[0].get("do_train") is False
    assert make_plan(None, [*words, "do_eval=true", "do_train=true"])[0].get("do_train") is True
    assert make_plan(None, words)[0].get("do_train") is True
    plan, _ = make_plan(None, arguments(eval_dataset=data, do_eval=True))
    assert plan.get("do_train") is False
    assert any(note.startswith("no training") for note in plan.notes)
    assert not any(note.startswith("no training") for note in make_plan(None, arguments())[0].notes)


def test_what_a_run_starts_from_is_not_removed(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute(arguments(save_steps=1, max_steps=1))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    with pytest.raises(Problems, match="remove what it starts from"):
        execute(arguments(overwrite_output_dir=True, adapter_name_or_path=checkpoint))
    assert (checkpoint / "manifest.json").exists()


@pytest.mark.parametrize(
    ("keys", "kind", "said"),
    [
        ({"dataloader_prefetch_factor": 2}, ConfigError, "prefetch_factor"),
    ],
)
def test_what_transformers_refuses_is_said_as_such(
    arguments: Callable[..., list[str]], keys: dict[str, Any], kind: type[FtError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        execute(arguments(**keys))


def test_a_failing_run_does_not_replace_the_record_before(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute(arguments(max_steps=1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        execute(arguments(dataset=bad, overwrite_output_dir="true"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before


def test_the_failure_is_recorded(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError):
        execute(arguments(dataset=empty))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "empty.jsonl" in record["error"]["message"]


def test_a_run_that_failed_early_can_be_tried_again(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError):
        execute(arguments(dataset=empty))
    execute(arguments(max_steps=1))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "finished"
    with pytest.raises(Problems, match="not empty"):
        execute(arguments(max_steps=1))


def test_a_run_that_is_interrupted_early_is_stopped_and_can_be_tried_again(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "prepare_data", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(arguments(max_steps=1))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "stopped"
    execute(arguments(max_steps=1))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "finished"


def test_secrets_are_not_recorded(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    execute([*arguments(max_steps=1), "hf_hub_token=hf_abcdefghijklmnopqrstuvwxyz0123"])
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"hf_abcdefgh" not in path.read_bytes(), path


STAGE = """
from ft_hookspecs import hookimpl
from ft.data import prepare_supervised
from ft.training import PackedTrainer, evaluate_loss

@hookimpl
def ft_prepare_dataset(run, examples, counts):
    short = (example for example in examples if len(example.messages[-1].content) < 16)
    return prepare_supervised(run, short, counts)

@hookimpl
def ft_build_trainer(run, callbacks):
    return PackedTrainer.for_run(run, callbacks)
"""


@pytest.mark.parametrize("how", ["stage", "plugin"])
def test_an_in_house_stage_by_path(arguments: Callable[..., list[str]], tmp_path: Path, how: str) -> None:
    path = tmp_path / "short_answers.py"
    path.write_text(STAGE)
    stage = path if how == "stage" else "short_answers"
    run = execute(arguments(stage=stage, max_steps=1), plugins=(str(path),) if how == "plugin" else ())
    assert run.train_dataset is not None
    assert 0 < len(run.train_dataset) < len(ROWS)
    assert any(info.distribution == "in-house" for info in run.plan.plugins)


def test_a_stage_that_fails_is_blamed(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    path = tmp_path / "broken_stage.py"
    path.write_text(STAGE.replace("return PackedTrainer.for_run(run, callbacks)", "return 1 / 0"))
    with pytest.raises(PluginError) as caught:
        execute(arguments(stage=path))
    message = str(caught.value)
    assert all(part in message for part in ("broken_stage", "ft_build_trainer", "in-house", "ZeroDivisionError"))


LOGGER = """
from ft_hookspecs import hookimpl

@hookimpl
def ft_log(run, row):
    raise OSError("the tracker is down")
"""


def test_a_logger_that_fails_stops_nothing(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tracker.py"
    path.write_text(LOGGER)
    execute(arguments(max_steps=3), plugins=(str(path),))
    assert len(rows_of(tmp_path / "out")) == 4
    assert capsys.readouterr().out.count("the tracker is down") == 1


ADAPTER = """
from ft_hookspecs import Change, hookimpl

@hookimpl
def ft_adapt_model(run, model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Change(model, "{summary}")
"""


@pytest.mark.parametrize(
    ("summary", "error", "text"),
    [
        ("", PluginError, "says nothing of what it changed"),
        ("froze everything", TrainingError, "no parameter of the model trains"),
    ],
)
def test_surgery_must_say_and_do_something(
    arguments: Callable[..., list[str]], tmp_path: Path, summary: str, error: type[FtError], text: str
) -> None:
    path = tmp_path / "freezer.py"
    path.write_text(ADAPTER.format(summary=summary))
    with pytest.raises(error, match=text):
        execute(arguments(finetuning_type=path))


OPTIMIZER = """
from ft_hookspecs import hookimpl

@hookimpl
def ft_create_optimizer(run, model):
    from torch.optim import SGD
    return SGD([p for p in model.parameters() if p.requires_grad], lr=run.plan.get("learning_rate"))
"""


def test_an_optimizer_plugin_makes_the_optimizer(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    path = tmp_path / "plain_sgd.py"
    path.write_text(OPTIMIZER)
    run = execute(arguments(max_steps=1), plugins=(str(path),))
    assert run.trainer is not None
    assert type(run.trainer.optimizer.optimizer).__name__ == "SGD"


def test_two_plugins_that_claim_a_module(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    body = ADAPTER.replace('"{summary}")', '"froze", modules=frozenset(["lm_head"]))')
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(body)
    with pytest.raises(PluginError, match="both change the module 'lm_head'"):
        execute(arguments(finetuning_type=tmp_path / "one.py"), plugins=(str(tmp_path / "two.py"),))


def test_fp16_on_a_cpu_is_refused_at_planning(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(FtError) as caught:
        make_plan(None, arguments(fp16="true"))
    assert caught.value.exit_code == 2
    assert "bf16" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_every_problem_is_reported_at_once(arguments: Callable[..., list[str]]) -> None:
    with pytest.raises(Problems) as caught:
        make_plan(None, arguments(lora_rnak=4, learning_rate="fast", lr_scheduler_type="cosin"))
    text = str(caught.value)
    assert all(part in text for part in ("lora_rnak", "lora_rank", "learning_rate", "cosin", "cosine"))
    assert all(isinstance(problem, ConfigError) for problem in caught.value.problems)


def test_a_finished_run_that_is_resumed_trains_no_further_step(arguments: Callable[..., list[str]]) -> None:
    execute(arguments(max_steps=3, save_steps=3))
    run = execute(arguments(max_steps=3, save_steps=3, resume_from_checkpoint="true"))
    assert run.trainer is not None
    assert run.trainer.state.global_step == 3
    assert [path.name for path in run.output_dir.glob("checkpoint-*")] == ["checkpoint-3"]


def test_what_is_different_in_a_resumed_run_is_said(arguments: Callable[..., list[str]]) -> None:
    execute(arguments(max_steps=2, save_steps=1))
    run = execute(arguments(max_steps=3, save_steps=2, weight_decay=0.5, resume_from_checkpoint="true"))
    said = [line for line in run.decisions if line.startswith("resumed with another")]
    assert said == [
        "resumed with another max_steps: 3, before 2",
        "resumed with another weight_decay: 0.5, before 0.0",
    ]


def test_a_checkpoint_that_is_not_there_is_told_while_planning(arguments: Callable[..., list[str]]) -> None:
    with pytest.raises(Problems, match=r"there is no checkpoint nowhere/checkpoint-3\n  where: command line: resume"):
        make_plan(None, arguments(resume_from_checkpoint="nowhere/checkpoint-3"))


@pytest.mark.parametrize(("key", "value"), [("finetuning_type", "full"), ("stage", "pt")])
def test_a_run_of_another_kind_is_not_resumed(arguments: Callable[..., list[str]], key: str, value: str) -> None:
    execute(arguments(max_steps=1, save_steps=1))
    with pytest.raises(Problems, match=key) as error:
        execute(arguments(max_steps=2, **{key: value}, resume_from_checkpoint="true"))
    assert "another output_dir" in str(error.value)
