"""The loggers that keep rows: metrics.jsonl, loss.png and TensorBoard's events."""

import json
import math
import subprocess
import sys

import pytest

from ft_hookspecs import Plan, Run
from ft_plugins.loggers import jsonl, plot_loss, tensorboard


@pytest.fixture
def new_run(tmp_path):
    def make(resumed_from=None, **values):
        plan = Plan(values=values, sources={}, plugins=(), models=(), output_dir=tmp_path)
        return Run(plan, resumed_from=resumed_from)

    return make


def train_row(step, loss=1.0):
    return {"event": "train", "step": step, "epoch": step / 10, "loss": loss, "learning_rate": 5e-4}


def read(tmp_path):
    return [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]


def test_jsonl_rows_are_on_disk_at_once(new_run, tmp_path):
    run = new_run()
    for step in (1, 2):
        jsonl.ft_log(run, train_row(step))
        assert read(tmp_path) == [train_row(one) for one in range(1, step + 1)]


def test_jsonl_never_writes_what_json_lacks(new_run, tmp_path):
    jsonl.ft_log(new_run(), {"event": "train", "step": 1, "loss": math.nan, "grad_norm": math.inf, "a": -math.inf})
    (row,) = read(tmp_path)
    assert row == {
        "event": "train",
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "a": None,
        "not_finite": {"loss": "nan", "grad_norm": "inf", "a": "-inf"},
    }


def test_jsonl_writes_tensors_as_numbers_and_others_as_text(tmp_path):
    import torch

    row = {"event": "train", "step": 1, "loss": torch.tensor(0.5), "norm": torch.tensor(float("nan")), "at": tmp_path}
    written = json.loads(jsonl.encode(row))
    assert (written["loss"], written["norm"], written["at"]) == (0.5, None, str(tmp_path))


def test_a_resumed_run_has_no_step_twice_and_no_old_final_row(new_run, tmp_path):
    first = new_run()
    for step in (10, 20, 30, 40):
        jsonl.ft_log(first, train_row(step))
    jsonl.ft_log(first, {"event": "final", "step": 20})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # killed while writing
    checkpoint = tmp_path / "checkpoint-20"
    second = new_run(resumed_from=str(checkpoint))
    for step in (30, 40, 50):
        jsonl.ft_log(second, train_row(step, loss=2.0))
    rows = read(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_the_resumed_step_is_the_checkpoints_own_not_its_name(new_run, tmp_path):
    checkpoint = tmp_path / "checkpoint-99"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"global_step": 10}')
    jsonl.ft_log(new_run(), train_row(10))
    jsonl.ft_log(new_run(), train_row(20))
    jsonl.ft_log(new_run(resumed_from=str(checkpoint)), train_row(20, loss=2.0))
    assert [row["loss"] for row in read(tmp_path)] == [1.0, 2.0]


def test_a_new_run_keeps_rows_that_stand_there(new_run, tmp_path):
    jsonl.ft_log(new_run(), train_row(1))
    jsonl.ft_log(new_run(), {"event": "final", "step": 0})
    assert [row["event"] for row in read(tmp_path)] == ["train", "final"]


# ---- loss.png -----------------------------------------------------------------------------------------------------


def test_plot_draws_raw_smoothed_and_evaluation(new_run, tmp_path):
    run = new_run()
    for step in range(1, 6):
        plot_loss.ft_log(run, train_row(step, loss=3.0 / step))
    plot_loss.ft_log(run, {"event": "eval", "step": 5, "eval_loss": 0.7})
    plot_loss.ft_run_finished(run)
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = plot_loss.figure([(1, 3.0), (2, 1.0)], [(2, 0.7)]).axes[0].lines
    assert [line.get_label() for line in lines] == ["loss", "loss, smoothed", "evaluation loss"]
    assert lines[0].get_ydata().tolist() == [3.0, 1.0]


def test_smoothing_starts_at_the_first_value_and_damps():
    assert plot_loss.smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    first, second = plot_loss.smooth([1.0, 0.0])
    assert first == pytest.approx(1.0)
    assert second == pytest.approx(0.09 / 0.19)


def test_plot_leaves_out_what_is_not_finite_and_draws_nothing_without_points(new_run, tmp_path):
    run = new_run()
    plot_loss.ft_log(run, train_row(1, loss=math.nan))
    plot_loss.ft_run_failed(run)
    assert not (tmp_path / "loss.png").exists()


def test_plot_of_a_resumed_run_begins_at_the_beginning(new_run, tmp_path, monkeypatch):
    for step in (10, 20, 30):
        jsonl.ft_log(new_run(), train_row(step))
    run = new_run(resumed_from=str(tmp_path / "checkpoint-20"))
    drawn = []
    true_figure = plot_loss.figure
    monkeypatch.setattr(plot_loss, "figure", lambda *series: drawn.append(series) or true_figure(*series))
    for step in (30, 40):
        jsonl.ft_log(run, train_row(step))
        plot_loss.ft_log(run, train_row(step))
    plot_loss.ft_run_finished(run)
    assert [step for step, _ in drawn[0][0]] == [10, 20, 30, 40]


def test_a_failed_run_is_drawn_too_and_needs_no_display(new_run, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")  # a window system that is not here
    run = new_run()
    plot_loss.ft_log(run, train_row(1))
    plot_loss.ft_run_failed(run)
    assert (tmp_path / "loss.png").exists()


# ---- tensorboard --------------------------------------------------------------------------------------------------


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_scalars_can_be_read_before_the_run_ends(new_run, tmp_path):
    run = new_run()
    tensorboard.ft_log(run, train_row(1, loss=0.5))
    tensorboard.ft_log(run, {"event": "eval", "step": 1, "eval_loss": 0.25, "note": "text is no scalar"})
    assert scalars(tmp_path / "runs") == {
        "train/loss": [(1, 0.5)],
        "train/learning_rate": [(1, pytest.approx(5e-4))],
        "eval/loss": [(1, 0.25)],
    }
    tensorboard.ft_run_finished(run)
    assert run.stash[tensorboard.WRITER].file_writer is None or not run.stash[tensorboard.WRITER].all_writers


def test_tensorboard_flushes_every_row(new_run, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    flushed = []
    monkeypatch.setattr(SummaryWriter, "flush", lambda writer: flushed.append(writer))
    run = new_run()
    for step in (1, 2):
        tensorboard.ft_log(run, train_row(step))
        assert len(flushed) == step
    tensorboard.ft_run_finished(run)


def test_tensorboard_hides_the_points_after_the_resumed_step(new_run, tmp_path):
    first = new_run()
    for step in (10, 20, 30):
        tensorboard.ft_log(first, train_row(step))
    tensorboard.ft_run_failed(first)
    second = new_run(resumed_from=str(tmp_path / "checkpoint-20"))
    tensorboard.ft_log(second, train_row(30, loss=2.0))
    tensorboard.ft_run_finished(second)
    assert scalars(second.output_dir / "runs")["train/loss"] == [(10, 1.0), (20, 1.0), (30, 2.0)]


@pytest.mark.parametrize("module", [jsonl, plot_loss, tensorboard])
def test_ending_before_any_row_is_no_error(new_run, module):
    for hook in ("ft_run_finished", "ft_run_failed"):
        getattr(module, hook, lambda run: None)(new_run())


def test_entry_modules_are_light():
    ask = (
        "import sys\n"
        "from ft_plugins.loggers import console, jsonl, plot_loss, tensorboard\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'tensorboard', 'rich', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout == "[]\n"
