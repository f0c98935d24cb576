"""Rows of tables (csv, tsv, parquet, arrow) and of plain text."""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ft.errors import DataError, first_line
from ft_hookspecs import Row
from ft_plugins.data.json_rows import find_not_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FIELD_LIMIT = 2**31 - 1
"""Characters of one field; the csv module's own limit is 128 KiB, which a document exceeds."""


def read_text(stream: IO[bytes], path: str) -> Iterator[Row]:
    """Each line that is not blank is a row with the column ``text``."""
    lines = io.TextIOWrapper(stream, "utf-8-sig", newline="\n")
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Row({"text": line.rstrip("\r\n")}, f"{path}:{number}")
    except UnicodeDecodeError:
        raise find_not_utf8(stream, path) from None


def read_csv(stream: IO[bytes], path: str, delimiter: str = ",") -> Iterator[Row | Exception]:
    """Rows under a line of names; ``where`` is the line where the row begins, line breaks inside quotes counted.

    Raises:
        DataError: the table is malformed as a whole: names missing or twice, quotes left open.
    """
    csv.field_size_limit(FIELD_LIMIT)
    lines = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begin = 1
    names: list[str] = []
    try:
        for record in reader:
            where, begin = f"{path}:{begin}", reader.line_num + 1
            if not names:
                names = _names(record, where)
            elif record:
                yield _row(names, record, where)
    except UnicodeDecodeError:
        raise find_not_utf8(stream, path) from None
    except csv.Error as error:
        raise DataError("malformed table", where=f"{path}:{begin}", why=str(error), remedy="check the quotes") from None


def _names(record: list[str], where: str) -> list[str]:
    twice = {name for name in record if record.count(name) > 1}
    if twice or not all(record):
        raise DataError(
            "the first line does not name the columns",
            where=where,
            why=f"{', '.join(sorted(twice))} is given twice" if twice else "a name is empty",
            remedy="begin the file with one line of different names",
        )
    return record


def _row(names: list[str], record: list[str], where: str) -> Row | DataError:
    if len(record) == len(names):
        return Row(dict(zip(names, record, strict=True)), where)
    return DataError(
        f"{len(record)} fields where the first line names {len(names)}",
        where=where,
        why="each row needs a field for each column",
        remedy="put fields with commas, quotes or line breaks in quotes",
    )


def read_arrow(file: Path, path: str, begin: int = 0) -> Iterator[Row]:
    """Rows of a parquet or Arrow file without the first ``begin``.

    They have no lines, so ``where`` is ``path row N``, counted from 1.

    Raises:
        DataError: the file is damaged or no such file.
    """
    number = 0
    with _readable(file, path, lambda: number):
        for batch in _batches(file):
            passed = min(batch.num_rows, max(0, begin - number))
            number += passed
            for data in batch.slice(passed).to_pylist():
                number += 1
                yield Row(data, f"{path} row {number}")


def count_arrow(file: Path, path: str) -> int:
    """The rows of a parquet or Arrow file.

    Raises:
        DataError: the file is damaged or no such file.
    """
    import pyarrow.parquet as pq

    with _readable(file, path, lambda: 0):
        if file.suffix.lower() == ".parquet":
            return int(pq.ParquetFile(file).metadata.num_rows)
        return sum(batch.num_rows for batch in _batches(file))


@contextmanager
def _readable(file: Path, path: str, number: Callable[[], int]) -> Iterator[None]:
    """Turns what goes wrong into an error that names the row after ``number``."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the {file.suffix.removeprefix('.')} file cannot be read",
            where=f"{path} row {number() + 1}",
            why=first_line(error),
            remedy="the file may be cut short or of another kind: download it again",
        ) from None


def _batches(file: Path) -> Iterable[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches: Iterable[Any]
    if file.suffix.lower() == ".parquet":
        batches = pq.ParquetFile(file).iter_batches(batch_size=1000)
        return batches
    source = pa.memory_map(str(file))
    try:
        reader = pa.ipc.open_file(source)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        batches = pa.ipc.open_stream(source)
    return batches
