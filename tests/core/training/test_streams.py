"""Runs on a stream: killed and resumed, in two processes, and the number of steps that follows from the rows."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
import torch

from ft.testing import Runs
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from pathlib import Path

SPY = """
import os
from pathlib import Path
from ft_hookspecs import Example, Message, hookimpl

ft_api_version = 1

@hookimpl(tryfirst=True)
def ft_read_format(source, columns):
    log = Path(source.location).with_name(f"read-{os.environ.get('RANK', '0')}.txt")

    def read(row):
        with log.open("a") as file:
            file.write(row.where.rpartition(":")[2] + chr(10))
        return Example(row.where, messages=(Message("user", row.data["q"]), Message("assistant", row.data["a"])))

    return read
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "stones.jsonl", 11)


def write(path: Path, rows: int, *, bad: int | None = None) -> Path:
    lines = [
        {"instruction": f"Stone {n}?", "output": f"Stone {n} has the colour {n * 7919 % 13}."} for n in range(rows)
    ]
    if bad is not None:
        lines[bad] = {"instruction": "Stone?", "output": ""}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def run(tiny_model_dir: Path, tmp_path: Path) -> Runs:
    always = {
        "model_name_or_path": tiny_model_dir,
        "cache_dir": tmp_path / "cache",
        "finetuning_type": "lora",
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "streaming": True,
        "buffer_size": 4,
        "preprocessing_batch_size": 2,
    }
    return Runs(always)


@pytest.mark.parametrize("mixed", [False, True])
def test_killed_and_resumed_it_goes_on_where_it_was(run: Runs, data: Path, tmp_path: Path, mixed: bool) -> None:
    keys = {"dataset": data, "num_train_epochs": 2}
    if mixed:  # rows that give no sample, so that steps alone do not tell the place
        other = write(tmp_path / "other.jsonl", 5, bad=2)
        keys |= {"dataset": f"{data},{other}", "mix_strategy": "interleave_over", "on_bad_row": "skip"}
        keys |= {"interleave_probs": "0.6,0.4", "num_train_epochs": 1}
    whole = run({**keys, "output_dir": tmp_path / "whole"})
    assert whole.exits == (0,), whole.output
    killed = run({**keys, "output_dir": tmp_path / "part"}, kill_after=7)
    assert killed.exits == (-signal.SIGKILL,)
    resumed = run({**keys, "output_dir": tmp_path / "part", "resume_from_checkpoint": True})
    assert resumed.exits == (0,), resumed.output
    for name in ("loss", "epoch", "grad_norm"):
        curve = whole.series(name)
        assert {step: curve[step] for step in resumed.series(name)} == resumed.series(name)
        assert max(curve) > 7
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in whole.tensors().items())


def test_two_processes_read_each_row_once_and_learn_what_one_learns(run: Runs, data: Path, tmp_path: Path) -> None:
    write(data, 12)
    data.write_text(data.read_text().replace('"instruction"', '"q"').replace('"output"', '"a"'))
    spy = tmp_path / "spy.py"
    spy.write_text(SPY)
    keys = {"dataset": data, "num_train_epochs": 1}
    alone = run({**keys, "output_dir": tmp_path / "one"}, plugins=[str(spy)])
    assert alone.exits == (0,), alone.output
    (tmp_path / "read-0.txt").unlink()
    both = run(
        {**keys, "output_dir": tmp_path / "two", "per_device_train_batch_size": 1}, plugins=[str(spy)], processes=2
    )
    assert both.exits == (0, 0), both.output
    shares = [sorted(map(int, (tmp_path / f"read-{rank}.txt").read_text().split())) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(1, 13))
    assert len(shares[0]) == len(shares[1]) == 6
    one, two = alone.series("loss"), both.series("loss")
    assert list(one) == list(two) == [1, 2, 3, 4, 5, 6]
    assert list(two.values()) == pytest.approx(list(one.values()), abs=2e-3)
    counted = [json.loads((each.folder / "run.json").read_text())["data"]["train"] for each in (alone, both)]
    assert counted[0] == counted[1]
    assert counted[0]["examples"] == 12


def test_what_is_held_out_is_measured_and_not_trained_on(run: Runs, data: Path, tmp_path: Path) -> None:
    done = run({"dataset": data, "num_train_epochs": 1, "val_size": 3, "output_dir": tmp_path / "out"})
    assert done.exits == (0,), done.output
    assert max(done.series("loss")) == 4  # 8 rows, 2 a step
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["data"]["train"]["examples"], record["data"]["eval"]["examples"]) == (8, 3)
    assert "eval_loss" in done.rows[-1]


def test_workers_change_nothing_and_this_is_told(run: Runs, data: Path, tmp_path: Path) -> None:
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "preprocessing_num_workers": 2}
    keys = {"dataset": data, "num_train_epochs": 1}
    plain = run({**keys, "output_dir": tmp_path / "plain"})
    done = run({**keys, **workers, "output_dir": tmp_path / "out"})
    assert done.exits == (0,), done.output
    assert done.series("loss") == plain.series("loss")
    assert done.output.count("has no effect: a stream is read and tokenised by the processes that train") == 2


def test_what_a_stream_leaves_out_is_told_and_counted(run: Runs, data: Path, tmp_path: Path) -> None:
    write(data, 6, bad=2)
    done = run({"dataset": data, "num_train_epochs": 1, "on_bad_row": "skip", "output_dir": tmp_path / "out"})
    assert done.exits == (0,), done.output
    counted = json.loads((tmp_path / "out" / "run.json").read_text())["data"]["train"]
    assert sum(counted["dropped"].values()) >= 1
    assert f"data: train: {DataCounts(**counted)}" in done.output.splitlines()


def test_a_stream_without_a_sample_is_an_error(run: Runs, data: Path, tmp_path: Path) -> None:
    done = run({"dataset": data, "max_steps": 2, "cutoff_len": 4, "output_dir": tmp_path / "out"})
    assert done.exits == (4,)
    assert "no training samples are left" in done.output
