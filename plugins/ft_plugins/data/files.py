"""Reads data sets from files and folders (json, jsonl, csv, tsv, parquet, arrow, txt; ``.gz`` too) and from the hub."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from ft.errors import DataError, EnvironmentProblem
from ft_hookspecs import hookimpl
from ft_plugins.data import hub_rows, json_rows, table_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ft_hookspecs import DatasetSource, Plan, Row

ft_api_version = 1

STREAMS: Final[dict[str, Callable[[IO[bytes], str], Iterator[Row | Exception]]]] = {
    ".json": json_rows.read_json,
    ".jsonl": json_rows.read_json,
    ".ndjson": json_rows.read_json,
    ".csv": table_rows.read_csv,
    ".tsv": partial(table_rows.read_csv, delimiter="\t"),
    ".txt": table_rows.read_text,
}
JSON: Final = (".json", ".jsonl", ".ndjson")
ARROW: Final = (".parquet", ".arrow")
METADATA: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


@hookimpl(trylast=True)  # takes any source
def ft_load_dataset(plan: Plan, source: DatasetSource) -> Iterable[Row | Exception]:
    path = Path(source.location)
    if not path.is_absolute():
        return hub_rows.HubRows(source, plan.get("hf_hub_token"), streaming=bool(plan.get("streaming")))
    if not path.is_dir():
        if source.folder:
            raise DataError(f"folder of {source.name!r} has no effect: it is a file", where=source.declared_at)
        return FileRows([path])
    folder = path / source.folder if source.folder else path
    if not folder.resolve().is_relative_to(path):
        raise DataError(f"the folder of {source.name!r} lies outside {path}", where=source.declared_at)
    return FileRows(files_in(folder))


@dataclass(frozen=True)
class FileRows:
    """The rows of files, one after the other."""

    files: Sequence[Path]

    def __iter__(self) -> Iterator[Row | Exception]:
        return self.after(0)

    def after(self, begin: int) -> Iterator[Row | Exception]:
        """Without the first ``begin`` rows, which are not parsed where the kind of file allows it."""
        for file in self.files:
            if begin and len(self.files) > 1 and (size := count_rows(file)) <= begin:
                begin -= size
                continue
            yield from read_file(file, begin)
            begin = 0

    def row_count(self) -> int:
        """How many there are, bad ones included."""
        return sum(map(count_rows, self.files))


def files_in(folder: Path) -> list[Path]:
    """The data files of a folder by name; all must be of one kind, or it would not be clear which are meant.

    Raises:
        DataError: no file, or several kinds.
    """
    files = sorted(
        file for file in folder.glob("*") if suffix(file) in (*STREAMS, *ARROW) and file.name not in METADATA
    )
    kinds = sorted({suffix(file) for file in files})
    if len(kinds) == 1:
        return files
    raise DataError(
        f"the folder holds {'files of several kinds: ' + ', '.join(kinds) if kinds else 'no data file'}",
        where=str(folder),
        remedy="give one file, or a folder with files of one kind",
    )


def suffix(file: Path) -> str:
    """The kind of a file by its name, ``.gz`` apart."""
    name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    return name.suffix.lower()


def shown(file: Path) -> str:
    """The path as errors show it: short where the file lies under the working directory."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def count_rows(file: Path) -> int:
    """The rows of one file, without parsing them where its kind allows it.

    Raises:
        DataError, EnvironmentProblem: as for :func:`read_file`.
    """
    if file.suffix.lower() in ARROW:
        return table_rows.count_arrow(file, shown(file))
    if suffix(file) in JSON:
        with opened(file) as stream:
            if not json_rows.is_array(stream):
                return sum(1 for _ in json_rows.filled_lines(stream))
    return sum(1 for _ in read_file(file))


def read_file(file: Path, begin: int = 0) -> Iterator[Row | Exception]:
    """The rows of one file without the first ``begin``.

    Raises:
        DataError: an unknown kind, an empty file, or one that is broken as a whole.
        EnvironmentProblem: the file may not be read.
    """
    path = shown(file)
    if file.suffix.lower() in ARROW:
        yield from table_rows.read_arrow(file, path, begin)
        return
    reader = STREAMS.get(suffix(file))
    if reader is None:
        raise DataError(
            f"files of the kind {file.suffix or 'without suffix'!r} are not read",
            where=path,
            why=f"the kinds are {', '.join((*STREAMS, *ARROW))}, and .gz of the first {len(STREAMS)}",
        )
    with opened(file) as stream:
        check_beginning(stream, path)
        lines = suffix(file) in JSON and not json_rows.is_array(stream)
        yield from json_rows.read_lines(stream, path, begin) if lines else islice(reader(stream, path), begin, None)


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked.

    Raises:
        DataError: it is not packed as it should be.
        EnvironmentProblem: it may not be read.
    """
    try:
        with open_binary(file) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "the compressed file is damaged", where=shown(file), why=str(error), remedy="download it again"
        ) from None
    except OSError as error:
        raise EnvironmentProblem(
            "the data file cannot be read", where=shown(file), why=error.strerror or str(error)
        ) from None


def open_binary(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file, "rb")) if file.suffix.lower() == ".gz" else file.open("rb")


def check_beginning(stream: IO[bytes], path: str) -> None:
    """Refuse what is empty, and UTF-16 by its mark; the stream is at its beginning after it."""
    beginning = first = stream.read(64)
    while first and not first.strip():
        first = stream.read(json_rows.BLOCK)
    if not first:
        raise DataError("the data file is empty", where=f"{path}:1", remedy="give a file with rows")
    if beginning.startswith(UTF16):
        raise DataError(
            "not UTF-8 but UTF-16",
            where=f"{path}:1",
            why="text files are read as UTF-8",
            remedy="convert it, for instance with: iconv -f UTF-16 -t UTF-8",
        )
    stream.seek(0)
