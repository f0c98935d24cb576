"""``ft data check``: every row of every data set is read, and all that is wrong is told with its place."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import typer

from ft.cli.data import KEYS, altered, stage_run, target_of
from ft.cli.text import echo_json, heading, paint
from ft.errors import EXIT_DONE, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ft.cli.data import Target
    from ft_hookspecs import DataCounts, DatasetSource

SHOWN: Final = 5
"""Bad rows of one kind that are shown without ``--all``."""


@dataclass
class Findings:
    """What is wrong, by the rule that is broken; all errors are counted, ``limit`` of each kind are kept."""

    limit: int | None
    counted: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[DataError]] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)

    def add(self, error: DataError) -> None:
        """Note an error, unless one at its place is known: a row is read again for the stage."""
        if error.where and error.where in self.places:
            return
        self.places.add(error.where)
        reason = error.why or error.what
        self.counted[reason] += 1
        kept = self.kept.setdefault(reason, [])
        if self.limit is None or len(kept) < self.limit:
            kept.append(error)


@dataclass
class Checked:
    """A data set as it was read: ``rows``, of which ``usable`` become examples."""

    key: str
    name: str
    location: str
    rows: int = 0
    usable: int = 0


def show(
    words: Sequence[str],
    plugins: Sequence[str] | None,
    excluded: Sequence[str] | None,
    *,
    every: bool,
    as_json: bool,
) -> int:
    """Check, print and return the exit code.

    Raises:
        FtError: the configuration, a plugin or the model is wrong; what was found in the rows is printed before.
    """
    target = target_of(words, plugins, excluded)
    findings = Findings(None if every else SHOWN)
    data = list(_read_all(target, findings))
    splits: dict[str, DataCounts] = {}
    try:
        if target.has_model and any(each.usable for each in data):
            splits = _prepare_all(target, findings)
    finally:
        _report(target, data, splits, findings, as_json=as_json)
    return DataError.exit_code if findings.counted else EXIT_DONE


def _read_all(target: Target, findings: Findings) -> Iterator[Checked]:
    from ft.data import dataset_sources

    for key in KEYS:
        try:
            sources = dataset_sources(target.plan, key)
        except DataError as error:
            findings.add(error)
            continue
        for source in sources:
            checked = Checked(key, source.name, source.location)
            try:
                _read(target, source, checked, findings)
            except DataError as error:
                findings.add(error)
            yield checked


def _read(target: Target, source: DatasetSource, checked: Checked, findings: Findings) -> None:
    """Every row by itself.

    Raises:
        DataError: the data set is broken as a whole, or empty.
    """
    from ft.data.rows import Rows, empty

    rows = Rows(target.manager.hook, target.plan, source)
    for row in rows.chosen():
        checked.rows += 1
        try:
            rows.convert(row)
            checked.usable += 1
        except DataError as error:
            findings.add(error)
    if not checked.rows:
        raise empty(source)


def _prepare_all(target: Target, findings: Findings) -> dict[str, DataCounts]:
    """Each split through the stage, without its bad rows; what the stage refuses is found too."""
    from ft.data import SPLIT, load_splits, none_left
    from ft.data.reading import hearing_of_bad_rows

    splits: dict[str, DataCounts] = {}
    with stage_run(target) as run, hearing_of_bad_rows(findings.add):
        run.plan = altered(run.plan, on_bad_row="skip")
        try:
            for split, examples, counts in load_splits(target.manager.hook, run.plan):
                run.stash[SPLIT] = split
                dataset = target.manager.hook.ft_prepare_dataset(run=run, examples=examples, counts=counts)
                splits[split] = counts
                if dataset is not None and not len(dataset):
                    findings.add(none_left(split, counts))
        except DataError as error:
            findings.add(error)
    return splits


# ---- print --------------------------------------------------------------------------------------------------------


def _report(
    target: Target, data: Sequence[Checked], splits: dict[str, DataCounts], findings: Findings, *, as_json: bool
) -> None:
    if as_json:
        echo_json(_described(data, splits, findings))
        return
    for each in data:
        typer.echo(f"{each.key}: {each.name}: {each.rows:,} rows, {each.usable:,} usable")
    for split, counts in splits.items():
        typer.echo(f"{split} (stage {target.plan.get('stage')}): {counts}")
    if not target.has_model:
        typer.echo("rows only: with model_name_or_path and stage, what would be dropped or cut is counted too")
    for reason, errors in findings.kept.items():
        heading(f"{reason} ({findings.counted[reason]:,})")
        _print_errors(errors, findings.counted[reason])
    total = sum(findings.counted.values())
    said = f"{total:,} problem{'s' * (total > 1)}" if total else "no problems"
    typer.echo("\n" + paint(said, "red" if total else "green"))


def _print_errors(errors: Sequence[DataError], total: int) -> None:
    for error in errors:
        typer.echo(f"  {error.where}: {error.what}" if error.where else f"  {error.what}")
    for remedy in dict.fromkeys(error.remedy for error in errors if error.remedy):
        typer.echo(f"    remedy: {remedy}")
    if total > len(errors):
        typer.echo(f"  … and {total - len(errors):,} more; --all shows them")


def _described(data: Sequence[Checked], splits: dict[str, DataCounts], findings: Findings) -> dict[str, Any]:
    return {
        "datasets": [asdict(each) for each in data],
        "splits": {split: asdict(counts) for split, counts in splits.items()},
        "problems": [
            {
                "reason": reason,
                "count": findings.counted[reason],
                "rows": [{"where": error.where, "what": error.what, "remedy": error.remedy} for error in errors],
            }
            for reason, errors in findings.kept.items()
        ],
    }
