"""Every configuration that ships runs as it is: planned with its own model, and carried out on a tiny one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ft.lifecycle import run
from ft.planning import make_plan
from ft.testing import save_tiny_model
from ft_plugins.evaluators import ask

if TYPE_CHECKING:
    from ft_hookspecs import Run

ROOT = Path(__file__).parents[2]
CHAINED = ROOT / "examples" / "stages"  # some of those need what others wrote: test_stage_examples.py
CONFIGS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.yaml") if not path.is_relative_to(CHAINED)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def carry_out(config: Path, tiny: Path, folder: Path, *more: str) -> Run:
    arguments = [
        f"model_name_or_path={tiny}",
        f"output_dir={folder / 'out'}",
        f"cache_dir={folder / 'cache'}",
        "max_steps=2",
        "logging_steps=1",
        "use_cpu=true",
        *more,
    ]
    return run(*make_plan(config, arguments))


def final_row(finished: Run) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((finished.output_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return row


def test_there_are_configs() -> None:
    assert Path("examples/quickstart.yaml") in CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_config_plans_as_it_is(config: Path) -> None:
    plan, _ = make_plan(config)
    assert plan.output_dir is not None
    assert plan.output_dir.parts[0] == "outputs", "git ignores outputs/"
    assert plan.get("overwrite_output_dir"), "an example can be run twice"


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_config_runs(config: Path, tiny: Path, tmp_path: Path) -> None:
    asking = ("ask_max_new_tokens=2",) if "ask_questions" in config.read_text() else ()
    row = final_row(carry_out(config, tiny, tmp_path, *asking))
    assert row["event"] == "final"
    assert row["eval_loss"] > 0


def test_the_quickstart_measures_before_and_after(tiny: Path, tmp_path: Path) -> None:
    finished = carry_out(Path("examples/quickstart.yaml"), tiny, tmp_path, "ask_max_new_tokens=2", "learning_rate=1e-2")
    row = final_row(finished)
    assert {"eval_loss_before", "eval_loss", "answered_before", "answered"} <= row.keys()
    assert row["eval_loss"] < row["eval_loss_before"]
    assert row["answered_before"] == row["answered"] == 0, "a random model knows nothing"
    written = {path.name for path in finished.output_dir.iterdir()}
    assert {"run.json", "loss.png", "adapter_model.safetensors", "README.md", ask.FILE} <= written


def test_the_in_house_stage_weighs_long_answers(tiny: Path, tmp_path: Path) -> None:
    finished = carry_out(Path("examples/in_house/in_house.yaml"), tiny, tmp_path, "val_size=0", "cutoff_len=400")
    assert finished.train_dataset is not None
    lines = Path("examples/in_house/train.jsonl").read_text().splitlines()
    answers = [json.loads(line)["messages"][1]["content"] for line in lines]
    given = [row["loss_weights"][-2] for row in finished.train_dataset]
    wanted = [min(1.0, 12 / len(answer.split())) for answer in answers]
    assert given == pytest.approx(wanted)
    assert min(wanted) < 0.5 < max(wanted)
