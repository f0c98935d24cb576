"""All checks that need a GPU, each in a process of its own, one table: python benchmarks/gpu/run.py --save

python benchmarks/gpu/run.py --topic speed --only llama
python benchmarks/gpu/run.py --dry-run      tiny shapes on the CPU: tries the code of the checks, shows nothing else
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from check import Check, Place, neighbour
from workers import Workers, serve

from ft.devices import devices, torch_build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "gpu"
TOPICS = ("kernels", "quantizers", "speed", "memory")
PACKAGES = ("torch", "triton", "transformers", "peft", "flash-attn", "liger-kernel", "unsloth", "bitsandbytes", "hqq")
BESIDE = 4
"""Checks at once that measure neither time nor memory."""
LEAST = 5.0
"""Seconds without which no check begins."""
BAD = ("WRONG", "FAILED", "TIMEOUT")


def main(
    topic: Annotated[list[str] | None, typer.Option(help="run these topics alone")] = None,
    only: Annotated[str, typer.Option(help="run the checks with this word in their name")] = "",
    dry_run: Annotated[bool, typer.Option(help="tiny shapes on the CPU")] = False,
    seconds: Annotated[float, typer.Option(help="for everything; what has not begun by then says so")] = 560,
    save: Annotated[bool, typer.Option(help="write TOPIC.json, anew after each check")] = False,
    into: Annotated[Path, typer.Option(help="the folder for --save")] = RESULTS,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Run the checks, print the table; the exit code says whether all that ran are right."""
    topics = topic or [each for each in TOPICS if (HERE / f"{each}.py").is_file()]
    if worker:
        serve(find, lambda: [*map(offered, topics)], Place("cpu", tiny=True) if dry_run else Place("cuda"))
        return
    begun = time.monotonic()
    if not dry_run and not has_gpu():
        typer.echo(f"no usable CUDA device ({devices().description}): --dry-run tries the code of the checks")
        raise typer.Exit(5)
    listed = [(name, check) for name in topics for check in offered(name) if only.lower() in check.name.lower()]
    command = [sys.executable, __file__, "--worker", *["--dry-run"] * dry_run]
    rows: list[dict[str, Any]] = []
    ready = 1 if dry_run else min(BESIDE, cores() // 2)
    with closing(Workers(command, ready, reuse=dry_run)) as workers:
        for row in carried_out(listed, workers, None if dry_run else begun + seconds):
            typer.echo(f"{time.monotonic() - begun:5.0f} s  {line(row)}")
            rows.append(row)
            if save and not dry_run:
                keep(into, row)
    typer.echo(table(rows))
    raise typer.Exit(int(any(row["status"] in BAD for row in rows)))


def has_gpu() -> bool:
    """Torch is asked too: where NVIDIA's management library is not found, rows say what that does to ft."""
    if devices().cuda:
        return True
    import torch

    return torch.cuda.is_available()


def checks(topic: str) -> list[Check]:
    return list(neighbour(topic).checks())


def offered(topic: str) -> list[Check]:
    """The checks of a topic; one that says why there are none, where its libraries cannot be imported."""
    try:
        return checks(topic)
    except Exception:  # of foreign packages: the other topics may not need them
        return [Check("its checks can be imported", lambda _: {"checks": len(checks(topic))})]


def find(name: str) -> Check:
    topic, _, wanted = name.partition(":")
    return next(check for check in offered(topic) if check.name == wanted)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def carried_out(listed: list[tuple[str, Check]], workers: Workers, end: float | None) -> Iterator[dict[str, Any]]:
    """A row a check, as they are done: some at once, and alone what measures; what matters most first."""

    def begin(item: tuple[str, Check]) -> dict[str, Any]:
        return carry_out(*item, workers, end)

    beside = 1 if end is None else BESIDE
    in_order = sorted(listed, key=lambda item: (item[1].late, item[1].alone))
    for alone, group in groupby(in_order, key=lambda item: item[1].alone):
        if alone:
            yield from map(begin, group)
        else:
            yield from at_once(begin, group, beside)


def at_once(begin: Callable[[Any], Any], items: Iterable[Any], number: int) -> Iterator[Any]:
    with ThreadPoolExecutor(number) as pool:
        for done in as_completed([pool.submit(begin, item) for item in items]):
            yield done.result()


def carry_out(topic: str, check: Check, workers: Workers, end: float | None) -> dict[str, Any]:
    """One row: a process with a limit, so that a failure costs a row and no more. Without ``end``, a dry run."""
    row = {"topic": topic, "check": check.name}
    if end is None and check.gpu_only:
        return {**row, "status": "needs a GPU"}
    if missing := check.missing():
        return {**row, "status": "not installed", "why": ", ".join(missing)}
    has = min((gpu.memory / 1e9 for gpu in devices().gpus), default=check.gigabytes)
    if end is not None and has < check.gigabytes:
        return {**row, "status": "too small a GPU", "why": f"{check.gigabytes:.0f} GB needed, it has {has:.0f}"}
    begun = time.monotonic()
    if end is not None and end - begun < LEAST:
        return {**row, "status": "no time left"}
    outcome = workers.carry_out(f"{topic}:{check.name}", check.seconds, end)
    return {**row, "seconds": round(time.monotonic() - begun, 1), **outcome}


def line(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in row.get("figures", {}).items())
    said = figures or row.get("why", "").strip()[-300:].replace("\n", " ")
    return f"| {row['topic']} | {row['check']} | {row['status']} | {said} |"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in the order of the topics, whichever was done first."""
    head = ["", "| topic | check | | figures |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *map(line, sorted(rows, key=lambda row: TOPICS.index(row["topic"])))])


def keep(folder: Path, row: dict[str, Any]) -> None:
    """Add one row to those of its topic, in place of an earlier one of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path, here = folder / f"{row['topic']}.json", machine()
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = found["rows"] if found.get("machine") == here else []
    rows = [each for each in rows if each["check"] != row["check"]] + [row]
    path.write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    build = torch_build()
    return {
        "device": devices().description,
        "python": platform.python_version(),
        "cuda": build.cuda if build else None,
        **{name: version for name in PACKAGES if (version := version_of(name))},
    }


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    typer.run(main)
