"""All checks that need a GPU, each in a process of its own, one table: python benchmarks/gpu/run.py --save

python benchmarks/gpu/run.py --topic speed --only llama
python benchmarks/gpu/run.py --dry-run      tiny shapes on the CPU: tries the code of the checks, shows nothing else
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from check import Place, neighbour

if TYPE_CHECKING:
    from check import Check

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "gpu"
TOPICS = ("kernels", "quantizers", "memory", "speed")
PACKAGES = ("torch", "triton", "transformers", "peft", "flash-attn", "liger-kernel", "unsloth", "bitsandbytes", "hqq")
BUDGET = 600.0
"""Seconds for everything; a check that cannot begin within it is not run, and says so."""


def main(
    topic: Annotated[list[str] | None, typer.Option(help="run these topics alone")] = None,
    only: Annotated[str, typer.Option(help="run the checks with this word in their name")] = "",
    dry_run: Annotated[bool, typer.Option(help="tiny shapes on the CPU")] = False,
    save: Annotated[bool, typer.Option(help="write benchmarks/results/gpu/TOPIC.json")] = False,
    child: Annotated[str, typer.Option(hidden=True)] = "",
    answer: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the checks, print the table; the exit code says whether all that ran are right."""
    if child and answer:
        answer.write_text(json.dumps(outcome_of(find(child), Place("cpu", tiny=True) if dry_run else Place("cuda"))))
        return
    if not dry_run and not has_gpu():
        typer.echo("no CUDA device: --dry-run tries the code of the checks on the CPU")
        raise typer.Exit(5)
    end, rows = time.monotonic() + BUDGET, []
    for name in topic or [each for each in TOPICS if (HERE / f"{each}.py").is_file()]:
        done = [carry_out(name, check, end, dry_run) for check in checks(name) if only in check.name]
        rows += done
        if save and done and not dry_run:
            keep(name, done)
    typer.echo(table(rows))
    raise typer.Exit(int(any(row["status"] in ("WRONG", "FAILED", "TIMEOUT") for row in rows)))


def checks(topic: str) -> list[Check]:
    """The checks of a topic; this folder leaves the path, for a package may have a topic's name."""
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE]
    return list(neighbour(topic).checks())


def find(name: str) -> Check:
    topic, _, wanted = name.partition(":")
    return next(check for check in checks(topic) if check.name == wanted)


def outcome_of(check: Check, place: Place) -> dict[str, Any]:
    """What a check gives, in its own process."""
    try:
        return {"status": "ok", "figures": dict(check.run(place))}
    except AssertionError as error:
        return {"status": "WRONG", "why": str(error)[-2000:]}
    except Exception as error:
        return {"status": "FAILED", "why": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def carry_out(topic: str, check: Check, end: float, dry_run: bool) -> dict[str, Any]:
    """One row: a process with a limit, so that a failure costs a row and no more."""
    row = {"topic": topic, "check": check.name}
    if dry_run and check.gpu_only:
        return {**row, "status": "needs a GPU"}
    if missing := [name for name in check.needs if find_spec(name) is None]:
        return {**row, "status": "not installed", "why": ", ".join(missing)}
    if (left := end - time.monotonic()) < 5 and not dry_run:
        return {**row, "status": "no time left"}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        words = [sys.executable, __file__, "--child", f"{topic}:{check.name}", "--answer", str(answer)]
        limit = None if dry_run else min(check.seconds, left)
        try:
            done = subprocess.run(
                words + ["--dry-run"] * dry_run, capture_output=True, text=True, timeout=limit, check=False
            )
            died = {"status": "FAILED", "why": (done.stderr or done.stdout)[-2000:] or f"exit code {done.returncode}"}
            outcome = json.loads(answer.read_text()) if answer.is_file() else died
        except subprocess.TimeoutExpired:
            outcome = {"status": "TIMEOUT", "why": f"more than {limit:.0f} s"}
    row |= {"seconds": round(time.monotonic() - begun, 1), **outcome}
    typer.echo(line(row))
    return row


def line(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in row.get("figures", {}).items())
    return f"| {row['topic']} | {row['check']} | {row['status']} | {figures or row.get('why', '').strip()[-300:]} |"


def table(rows: list[dict[str, Any]]) -> str:
    head = ["", "| topic | check | | figures |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(line(row).replace("\n", " ") for row in rows)])


def keep(topic: str, rows: list[dict[str, Any]]) -> None:
    """The rows of one topic with the machine that they come from."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
    (RESULTS / f"{topic}.json").write_text(text + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    import torch

    versions = {name: metadata.version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))}
    return {"device": torch.cuda.get_device_name(), "python": platform.python_version(), **versions}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    typer.run(main)
