"""`ft` as a user types it, in a process of its own, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from ft.testing import build_wheel, save_tiny_model

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "ft-parrot"
version = "1.2.3"

[project.entry-points."ft.plugins"]
parrot = "parrot"

[tool.hatch.build.targets.wheel]
include = ["parrot.py"]
"""

PARROT = """
from pydantic import Field

from ft_hookspecs import PluginOptions, hookimpl


class ParrotOptions(PluginOptions):
    parrot_word: str = Field("polly", description="What the parrot says.")
    parrot_fails: bool = Field(False, description="Whether the parrot dies.")


@hookimpl
def ft_options():
    return ParrotOptions


@hookimpl
def ft_evaluate(run, when):
    if run.plan.of(ParrotOptions).parrot_fails:
        raise RuntimeError("this parrot is no more")
    return {"parrot_" + run.plan.of(ParrotOptions).parrot_word: 1.0}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a data set called ``stones`` and an installed third-party wheel."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model(folder / "model")
    rows = [
        {"instruction": f"What is stone {n}?", "output": f"Stone {n} is {'grey' if n % 2 else 'red'}."}
        for n in range(16)
    ]
    (folder / "data").mkdir()
    (folder / "data" / "stones.json").write_text(json.dumps(rows))
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"stones": {"file_name": "stones.json"}}))
    make_venv(folder / "venv", build_wheel(folder / "parrot", {"pyproject.toml": PROJECT, "parrot.py": PARROT}))
    return folder


def make_venv(folder: Path, wheel: Path) -> None:
    """A virtual environment that sees what this one has installed, with the wheel in it by pip."""
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)


def ft(workplace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [workplace / "venv" / "bin" / "python", "-m", "ft", *words],
        cwd=workplace,
        env=environment_of(workplace),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def environment_of(workplace: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(workplace / "cache"), "OMP_NUM_THREADS": "1"}


def note(output_dir: str, *more: str) -> list[str]:
    """The command line of people's old notes."""
    line = (
        "run --stage sft --model_name_or_path model --do_train --dataset stones --template default "
        "--finetuning_type lora --lora_target q_proj,v_proj --output_dir {} --overwrite_cache "
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 4 --lr_scheduler_type cosine "
        "--logging_steps 10 --save_steps 100 --learning_rate 5e-4 --num_train_epochs 1 --max_samples 100 --plot_loss"
    )
    return [*line.format(output_dir).split(), "--use_cpu", *more]


@pytest.fixture(scope="module")
def saved(workplace: Path) -> Path:
    """What the command line of old notes leaves, with the plugin from the wheel beside it."""
    done = ft(workplace, *note("saved", "--plugin", "parrot", "--parrot_word", "coco"))
    assert done.returncode == 0, done.stderr
    return workplace / "saved"


def test_the_command_line_of_old_notes_works(saved: Path) -> None:
    record = json.loads((saved / "run.json").read_text())
    assert record["config"]["learning_rate"] == 5e-4
    assert record["sources"]["lora_target"] == "--lora_target"
    assert (saved / "loss.png").stat().st_size > 1000
    config = json.loads((saved / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]


def test_fp16_without_a_device_for_it_is_refused(workplace: Path) -> None:
    done = ft(workplace, *note("fp16", "--fp16"))
    assert done.returncode == 2
    assert "--fp16" in done.stderr
    assert "bf16" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace / "fp16").exists()


def test_a_plugin_from_its_own_wheel(workplace: Path, saved: Path) -> None:
    listed = json.loads(ft(workplace, "plugins", "list", "--json").stdout)
    assert any(row["name"] == "parrot" and row["distribution"] == "ft-parrot" for row in listed["plugins"])

    final = json.loads((saved / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["parrot_coco"] == 1.0
    record = json.loads((saved / "run.json").read_text())
    assert {"id": "plugins:parrot", "from": "ft-parrot", "version": "1.2.3"} in record["plugins"]


@pytest.mark.slow
def test_a_plugin_from_its_own_wheel_is_blamed(workplace: Path) -> None:
    done = ft(workplace, *note("parrot-dies", "--plugin", "parrot", "--parrot_fails"))
    assert done.returncode == 3
    for part in ("parrot", "ft-parrot 1.2.3", "ft_evaluate", "this parrot is no more"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert (workplace / "parrot-dies" / "adapter_model.safetensors").exists(), "the model was saved before"


def test_an_option_of_an_unselected_plugin_names_the_plugin(workplace: Path) -> None:
    done = ft(workplace, *note("no-parrot", "--parrot_word", "coco"))
    assert done.returncode == 2
    assert "--plugin plugins:parrot" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_ends(workplace: Path, number: signal.Signals, code: int) -> None:
    out = workplace / f"stopped-{code}"
    line = [sys.executable, "-m", "ft", "run", *long_run(out.name)]
    process = subprocess.Popen(line, cwd=workplace, env=environment_of(workplace), stderr=subprocess.PIPE, text=True)
    try:
        wait_for_rows(out / "metrics.jsonl", process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert list(out.glob("checkpoint-*/adapter_model.safetensors"))
    resumed = ft(workplace, "run", *long_run(out.name, steps=last_step(out) + 2), "resume_from_checkpoint=true")
    assert resumed.returncode == 0, resumed.stderr
    assert last_step(out) >= 3


def long_run(output_dir: str, steps: int = 100_000) -> list[str]:
    values = {
        "model_name_or_path": "model",
        "dataset": "stones",
        "output_dir": output_dir,
        "max_steps": steps,
        "logging_steps": 1,
        "use_cpu": "true",
    }
    return [f"{key}={value}" for key, value in values.items()]


def wait_for_rows(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no step was made in time"
        time.sleep(0.1)


def last_step(folder: Path) -> int:
    return max(json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines())
