"""`ft plan`: what it says of a plan, and that its phases are the lifecycle's."""

import inspect
import json
import re
from pathlib import Path

import pytest

from ft import lifecycle
from ft.cli import plan as module
from ft.options import DataOptions
from ft.plugins import PluginManager
from ft_hookspecs import PluginInfo, Row, Source, hookimpl, specs


class Files:
    """A plugin that reads one line as one row."""

    @hookimpl
    def ft_load_dataset(self, source):
        return [Row({"text": line}, f"{source.location}:{n}") for n, line in enumerate(Path(source.location).open(), 1)]

    @hookimpl
    def ft_read_format(self, source):
        return None if "odd" in Path(source.location).read_text() else (lambda row: row)

    @hookimpl
    def ft_check(self):
        return []


FILES = PluginInfo("datasets", "lines", "lines:plugin", "ft-lines", "1.2")


@pytest.fixture
def manager():
    manager = PluginManager()
    manager.add(FILES, Files())
    return manager


@pytest.fixture
def planned(planning, make_plan_record, manager, tmp_path):
    """A plan with a data set of three rows, a secret, and values from every level."""
    (tmp_path / "facts.jsonl").write_text("{}\n{}\n{}\n")
    values = {
        "dataset": [str(tmp_path / "facts.jsonl")],
        "learning_rate": 5e-4,
        "lora_rank": 16,
        "hf_hub_token": "hf_verysecret",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    sources = {
        "dataset": Source("file", "config.yaml:3"),
        "learning_rate": Source("command line", "--learning_rate"),
        "hf_hub_token": Source("environment", "FT_HF_HUB_TOKEN"),
    }
    data = DataOptions(dataset=values["dataset"], dataset_dir=str(tmp_path))
    plan = make_plan_record(
        values,
        sources,
        plugins=(FILES,),
        models=(data,),
        output_dir=tmp_path / "out",
        notes=("warmup_ratio is now warmup_steps",),
        secrets=frozenset({"hf_hub_token"}),
    )
    planning.outcome = (plan, manager)
    return plan


def test_text_shows_what_the_user_set_with_its_place(ft, planned, tmp_path):
    result = ft("plan", "config.yaml")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"plan for {tmp_path / 'out'}" in lines
    assert "datasets lines ft-lines 1.2" in lines
    assert "learning_rate 0.0005 --learning_rate" in lines
    assert f"dataset {tmp_path / 'facts.jsonl'} config.yaml:3" in lines
    assert f"dataset {tmp_path / 'facts.jsonl'} {tmp_path / 'facts.jsonl'} 3 rows" in lines
    assert "data ft_load_dataset datasets:lines" in lines
    assert "warmup_ratio is now warmup_steps" in lines
    assert "batch: 8 samples per step (4 per device, 2 accumulated, 1 processes)" in lines
    assert any(line.startswith("device: ") for line in lines)
    assert "lora_rank" not in result.stdout
    assert "\x1b" not in result.stdout


def test_all_shows_defaults_too(ft, planned):
    assert "lora_rank 16 default of ft" in [" ".join(line.split()) for line in ft("plan", "--all").stdout.splitlines()]


@pytest.mark.parametrize("words", [["--json"], ["--all"], []])
def test_secrets_are_never_shown(ft, planned, words):
    result = ft("plan", "config.yaml", *words)
    assert result.exit_code == 0
    assert "hf_hub_token" in result.stdout
    assert "verysecret" not in result.stdout


def test_json_holds_everything(ft, planned, tmp_path):
    described = json.loads(ft("plan", "--json", "config.yaml").stdout)
    assert described["plugins"] == [{"kind": "datasets", "name": "lines", "distribution": "ft-lines", "version": "1.2"}]
    assert described["values"]["learning_rate"] == {
        "value": 5e-4,
        "source": "command line",
        "where": "--learning_rate",
        "set": True,
    }
    assert described["values"]["lora_rank"]["set"] is False
    assert described["data"] == [
        {"key": "dataset", "name": str(tmp_path / "facts.jsonl"), "location": str(tmp_path / "facts.jsonl"), "rows": 3}
    ]
    assert described["phases"][1] == {"phase": "check", "hooks": {"ft_check": ["datasets:lines"]}}
    assert described["output_dir"] == str(tmp_path / "out")


def test_a_data_set_that_no_format_fits_is_no_plan(ft, planned, tmp_path):
    (tmp_path / "facts.jsonl").write_text('{"odd": 1}\n')
    result = ft("plan", "c.yaml")
    assert result.exit_code == 4
    assert "no format fits the columns" in result.stderr


def test_large_files_are_not_read(ft, planned, monkeypatch):
    monkeypatch.setattr(module, "COUNTED_BYTES", 5)
    assert json.loads(ft("plan", "--json", "c.yaml").stdout)["data"][0]["rows"] is None
    assert "rows not counted" in ft("plan", "c.yaml").stdout


def test_phases_are_in_the_order_in_which_the_lifecycle_calls_them():
    """The functions that `run` calls, in order, name the hooks of the phases, in order."""
    source = inspect.getsource(lifecycle.run)
    called = re.findall(r"^ {8}(\w+)\(run", source, re.MULTILINE)
    texts = [inspect.getsource(getattr(lifecycle, name)) for name in called]
    first = {}
    for phase in ("find model", "data", "estimate", "load", "surgery", "train", "save", "predict", "end"):
        first[phase] = min(n for n, text in enumerate(texts) if any(hook in text for hook in specs.PHASES[phase]))
    assert list(first.values()) == sorted(first.values())


def test_processes_count_in_the_batch(make_plan_record, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(module, "place", lambda plan: "x")
    plan = make_plan_record({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 5})
    assert list(module._decisions(plan))[1].startswith("batch: 30 samples")
