"""What the trackers are told, and what `report_to: all` means where some of their packages are missing."""

import json
import sys
from importlib import import_module
from importlib.metadata import EntryPoint
from io import StringIO

import pytest

from ft_hookspecs import Plan, Run
from ft_plugins import selectors
from ft_plugins.loggers import _trackers, console


@pytest.fixture
def run(tmp_path):
    def make(**values):
        plan = Plan(values=values, sources={}, plugins=(), models=(), output_dir=tmp_path / "red")
        return Run(plan)

    return make


def test_the_name_is_run_name_or_the_folders(run):
    assert _trackers.run_name(run()) == "red"
    assert _trackers.run_name(run(run_name="blue")) == "blue"


def test_the_settings_are_those_of_the_record_without_secrets(run, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "run.json").write_text(json.dumps({"config": {"hf_hub_token": "***"}}))
    assert _trackers.settings(run(hf_hub_token="hf_real")) == {"hf_hub_token": "***"}


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_tracker_without_a_key_does_not_ask_at_the_terminal(monkeypatch, run, name):
    """Each asks for a choice then, and waits: in the middle of training, at the first row."""
    terminal = StringIO("3\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    plugin = import_module(f"ft_plugins.loggers.{name}")
    monkeypatch.setattr(plugin, "_open", lambda run: pytest.fail("it asks") if sys.stdin.isatty() else input())
    with pytest.raises(EOFError):
        plugin.ft_log(run(), {"event": "train", "step": 1, "loss": 1.0})
    assert sys.stdin is terminal


@pytest.fixture
def only_tensorboard(monkeypatch):
    absent = {"wandb", "mlflow-skinny", "trackio", "swanlab"}
    monkeypatch.setattr(_trackers, "_installed", lambda name: name not in absent)


@pytest.mark.usefixtures("only_tensorboard")
def test_all_takes_what_is_installed():
    wishes = [wish.plugin for wish in selectors.select({"report_to": ["all"]}) if wish.because.startswith("report_to")]
    assert "loggers:tensorboard" in wishes
    assert not {"loggers:wandb", "loggers:mlflow", "loggers:trackio", "loggers:swanlab"}.intersection(wishes)


@pytest.mark.usefixtures("only_tensorboard")
def test_what_all_leaves_out_is_said_with_its_line(run):
    made = run(report_to=["all"])
    console.ft_callbacks(made)
    assert "report_to: all leaves wandb out, which needs: pip install 'ft-framework[wandb]'" in made.decisions


@pytest.mark.usefixtures("only_tensorboard")
def test_no_logger_is_imported_to_be_asked(monkeypatch):
    monkeypatch.setattr(EntryPoint, "load", lambda entry: pytest.fail(f"{entry.value} is imported"))
    lines = {name: f"pip install 'ft-framework[{name}]'" for name in ("mlflow", "swanlab", "trackio", "wandb")}
    assert _trackers.missing() == lines


@pytest.mark.parametrize("name", ["mlflow", "swanlab", "tensorboard", "trackio", "wandb"])
def test_the_line_is_the_one_that_the_plugin_itself_names(monkeypatch, name):
    monkeypatch.setattr(_trackers, "_installed", lambda _: False)
    module = import_module(f"ft_plugins.loggers.{name}")
    assert set(module.ft_requires.values()) == {_trackers.missing()[name]}


def test_a_named_one_that_is_missing_is_not_left_out():
    assert "loggers:wandb" in [wish.plugin for wish in selectors.select({"report_to": ["wandb"]})]
