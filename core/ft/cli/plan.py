"""``ft plan``: the resolved composition of a run, for people and as JSON."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from ft.cli.text import columns, echo_json, heading
from ft.config import redact
from ft.devices import place, processes
from ft.errors import DataError
from ft.estimate import describe as describe_memory
from ft.estimate import estimate_or_note, gigabytes, room
from ft.options import DataOptions
from ft_hookspecs import DataCounts
from ft_hookspecs.specs import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft.plugins import PluginManager
    from ft_hookspecs import DatasetSource, Plan

FIRST: Final = 20
"""So many examples of a data set are looked at while planning."""
COUNTED_BYTES: Final = 50_000_000  # larger files take longer to read than a plan should


def show(plan: Plan, manager: PluginManager, *, every: bool, as_json: bool) -> None:
    """Print the plan: as JSON with every value, or for people with the values that the user set (or ``every``)."""
    described = describe(plan, manager)
    if as_json:
        echo_json(described)
    else:
        _print(described, every=every)


def describe(plan: Plan, manager: PluginManager) -> dict[str, Any]:
    """Everything a plan settles, as JSON can hold it; secrets are redacted."""
    shown = redact(plan.values, plan.secrets)
    return {
        "phases": [{"phase": phase, "hooks": _implementations(manager, hooks)} for phase, hooks in PHASES.items()],
        "plugins": [
            {"kind": info.kind, "name": info.name, "distribution": info.distribution, "version": info.version}
            for info in plan.plugins
        ],
        "values": {
            key: {
                "value": value,
                "source": plan.sources[key].kind,
                "where": plan.sources[key].where,
                "set": plan.is_set(key),
            }
            for key, value in shown.items()
        },
        "output_dir": plan.output_dir,
        "notes": list(plan.notes),
        "decisions": list(_decisions(plan)),
        "data": list(_data(plan, manager)),
        "memory": _memory(plan, manager),
    }


def _implementations(manager: PluginManager, hooks: tuple[str, ...]) -> dict[str, list[str]]:
    """The selected plugins behind each hook, in the order in which they are called."""
    return {hook: [info.id for info in manager.implementers(hook)] for hook in hooks}


def _decisions(plan: Plan) -> Iterator[str]:
    """What can be said before a model or a row is read."""
    yield f"device: {place(plan)}"
    size, steps = plan.get("per_device_train_batch_size"), plan.get("gradient_accumulation_steps")
    if isinstance(size, int) and isinstance(steps, int):
        world = processes()
        made_of = f"{size} per device, {steps} accumulated, {world} processes"
        yield f"batch: {size * steps * world} samples per step ({made_of})"


def _memory(plan: Plan, manager: PluginManager) -> dict[str, Any]:
    """The estimate with its terms, or a line that says why there is none."""
    found = estimate_or_note(plan, manager)
    return {"notes": [found]} if isinstance(found, str) else describe_memory(found, room(plan))


def _data(plan: Plan, manager: PluginManager) -> Iterator[dict[str, Any]]:
    """Each data set, with its rows where counting them is cheap.

    Raises:
        DataError: a file is missing or malformed, or its rows are of a kind that the stage cannot learn from.
    """
    from ft.data import dataset_sources

    for key in ("dataset", "eval_dataset"):
        for source in dataset_sources(plan, key) if plan.get(key) else ():
            check_kind(plan, manager, source)
            rows = _rows(plan, manager, source) if _is_small(Path(source.location)) else None
            yield {"key": key, "name": source.name, "location": source.location, "rows": rows}


def check_kind(plan: Plan, manager: PluginManager, source: DatasetSource) -> None:
    """Show the stage the first examples of a file or folder, which it may refuse as the run would.

    Where bad rows are left out, it must refuse them all.

    Raises:
        DataError: it does, or a row cannot be read.
    """
    from ft.data import read_examples

    here = Path(source.location).is_absolute() and Path(source.location).exists()
    if not (here and manager.implementers("ft_check_examples")):
        return
    first = list(islice(read_examples(manager.hook, plan, replace(source, num_samples=None), DataCounts()), FIRST))
    skip = plan.of(DataOptions).on_bad_row == "skip"
    refused = []
    for examples in [[example] for example in first] if skip else [first]:
        try:
            manager.hook.ft_check_examples(plan=plan, examples=examples)
        except DataError as error:
            refused.append(error)
    if refused and len(refused) == (len(first) if skip else 1):
        raise refused[0]


def _is_small(location: Path) -> bool:
    if location.is_dir():
        return sum(path.stat().st_size for path in location.rglob("*") if path.is_file()) <= COUNTED_BYTES
    return location.is_file() and location.stat().st_size <= COUNTED_BYTES


def _rows(plan: Plan, manager: PluginManager, source: DatasetSource) -> int:
    """How many there are, as the plugin that would load them gives them.

    Raises:
        DataError: the file is malformed, or no format fits its columns.
    """
    from ft.data.rows import Rows

    rows = Rows(manager.hook, plan, source)
    count = sum(1 for _ in rows.load())
    _ = rows.reader
    return count


# ---- for people ---------------------------------------------------------------------------------------------------


def _print(described: dict[str, Any], *, every: bool) -> None:
    typer.echo(f"plan for {described['output_dir'] or 'a run without output_dir'}")
    heading("plugins")
    columns((item["kind"], item["name"], f"{item['distribution']} {item['version']}") for item in described["plugins"])
    heading("phases")
    columns(_phase_rows(described["phases"]))
    heading("values" if every else "values you set (--all shows the defaults)")
    columns(
        (key, _value(item["value"]), item["where"] or item["source"])
        for key, item in described["values"].items()
        if every or item["set"]
    )
    if described["data"]:
        heading("data")
        columns((item["key"], item["name"], item["location"], _row_count(item["rows"])) for item in described["data"])
    _print_memory(described["memory"])
    heading("decisions")
    for line in (*described["decisions"], *described["notes"]):
        typer.echo(f"  {line}")


def _print_memory(memory: dict[str, Any]) -> None:
    heading(f"memory (estimated, {memory['batch']})" if "batch" in memory else "memory")
    if "terms" in memory:
        columns((term["name"], gigabytes(term["bytes"]), term["why"]) for term in memory["terms"])
        typer.echo(f"  peak {gigabytes(memory['peak'])} of {gigabytes(memory['available'])} ({memory['device']})")
    for line in (*memory["notes"], memory.get("warning")):
        if line:
            typer.echo(f"  {line}")


def _phase_rows(phases: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for item in phases:
        title = item["phase"]
        for hook, plugins in item["hooks"].items():
            if plugins:
                yield title, hook, ", ".join(plugins)
                title = ""


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row_count(rows: int | None) -> str:
    return "rows not counted" if rows is None else f"{rows:,} rows"
