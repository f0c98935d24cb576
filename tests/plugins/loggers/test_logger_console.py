"""The console logger: exact lines where there is no terminal, a bar where there is one."""

import io
import re
from types import SimpleNamespace

import pytest

from ft_hookspecs import Plan, Run
from ft_plugins.loggers import _display as display
from ft_plugins.loggers import console

ROW = {
    "event": "train",
    "step": 10,
    "epoch": 0.5,
    "loss": 1.234,
    "grad_norm": 0.7,
    "learning_rate": 5e-4,
    "tokens_per_second": 3412.4,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def run(tmp_path):
    return Run(Plan(values={}, sources={}, plugins=(), models=(), output_dir=tmp_path))


@pytest.fixture
def now(monkeypatch):
    """A clock that tests set."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: clock.seconds)
    return clock


def state(step, total=80, main=True):
    return SimpleNamespace(global_step=step, max_steps=total, is_world_process_zero=main)


def steps(callback, now, *, until, seconds_each, start=0):
    callback.on_train_begin(None, state(start), None)
    for step in range(start + 1, until + 1):
        now.seconds += seconds_each
        callback.on_step_end(None, state(step), None)


def test_plain_line(run, now, capsys):
    (callback,) = console.ft_callbacks(run)
    steps(callback, now, until=10, seconds_each=2.0)
    console.ft_log(run, ROW)
    out = capsys.readouterr()
    assert out.out == "step 10/80  loss 1.234  lr 5.0e-04  3,412 tokens/s  2m20s left\n"
    assert out.err == ""


def test_evaluation_final_and_rows_of_a_stage(run, now, capsys):
    console.ft_log(
        run, {"event": "eval", "step": 0, "eval_loss": 2.5, "eval_runtime": 1.0, "eval_model_preparation_time": 0.1}
    )
    console.ft_log(run, {"event": "train", "step": 1, "loss": float("nan"), "rewards/margins": 0.25})
    console.ft_log(run, {"event": "final", "step": 80, "answered": 0.9375, "train_runtime": 9.0, "total_flos": 1e9})
    assert capsys.readouterr().out.splitlines() == [
        "step 0  eval_loss 2.5",
        "step 1  loss nan  rewards/margins 0.25",
        "final  answered 0.9375",
    ]


def test_time_left_leaves_the_first_step_and_the_resumed_ones_out(run, now):
    (callback,) = console.ft_callbacks(run)
    callback.on_train_begin(None, state(60), None)
    now.seconds = 100.0  # the first step compiles
    callback.on_step_end(None, state(61), None)
    clock = run.stash[console.DISPLAY].clock
    assert clock.left is None
    now.seconds += 3.0
    callback.on_step_end(None, state(62), None)
    assert clock.left == pytest.approx(3.0 * 18)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (45, "45s"), (59.7, "1m00s"), (130, "2m10s"), (3600 + 300, "1h05m")]
)
def test_duration(seconds, text):
    assert display.duration(seconds) == text


def test_other_processes_show_nothing(run, now):
    (callback,) = console.ft_callbacks(run)
    callback.on_train_begin(None, state(0, main=False), None)
    callback.on_step_end(None, state(1, main=False), None)
    assert run.stash[console.DISPLAY].clock.total == 0


def on_terminal(run, monkeypatch, **environ):
    """What a terminal of 80 columns receives during ten steps, a row and the end."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    for name, value in {"TERM": "xterm-256color", **environ}.items():
        monkeypatch.setenv(name, value)
    (callback,) = console.ft_callbacks(run)
    callback.on_train_begin(None, state(0), None)
    for step in range(1, 11):
        callback.on_step_end(None, state(step), None)
    console.ft_log(run, ROW)
    console.ft_run_failed(run)
    console.ft_run_failed(run)
    return terminal.getvalue()


def test_bar_on_a_terminal(run, monkeypatch):
    shown = on_terminal(run, monkeypatch)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert "step 10/80  loss 1.234  lr 5.0e-04" in text
    assert "loss 1.234  3,412 tokens/s" in text  # the bar's own line, whole
    assert "━" in text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again


def test_no_colour_when_asked(run, monkeypatch):
    shown = on_terminal(run, monkeypatch, NO_COLOR="1")
    assert "━" in shown
    assert not re.search(r"\x1b\[[\d;]*3\d", shown)


def test_dumb_terminal_gets_lines(run, monkeypatch):
    assert on_terminal(run, monkeypatch, TERM="dumb").startswith("step 10/80  loss 1.234")


def test_moves_with_a_real_trainer(run, tmp_path, capsys):
    """The callback is one that transformers accepts, with its own states."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, labels=None):
            return {"loss": ((x * self.weight - 1) ** 2).mean()}

    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, report_to=[], disable_tqdm=True, save_strategy="no", use_cpu=True
    )
    data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 4
    callbacks = console.ft_callbacks(run)
    Trainer(Model(), arguments, train_dataset=data, callbacks=callbacks).train()
    clock = run.stash[console.DISPLAY].clock
    assert (clock.step, clock.total) == (3, 3)
