"""Token ids on disk, addressed by content: the same data, template, tokenizer and options are never tokenised twice.

A folder of its own for each content holds ``data.arrow`` (an Arrow stream, memory-mapped by ``datasets``) and
``counts.json`` (what became of the rows, and the digest of the data). It is written beside its place and renamed, so
that nobody sees half of it; one whose digest does not match is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ft.errors import EnvironmentProblem
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datasets import Dataset

T = TypeVar("T")

Sample = Mapping[str, Any]
"""A value for every column."""

SAMPLES_AT_ONCE: Final = 1000
"""Rows of an Arrow batch; memory stays flat however large the data set is."""


def cached_dataset(
    build: Callable[[DataCounts], Iterable[Sample]],
    *,
    columns: Mapping[str, str],
    key_parts: Iterable[str],
    cache_dir: Path,
    counts: DataCounts,
    overwrite: bool = False,
) -> Dataset:
    """The samples that ``build`` gives, from the cache if they are there.

    Args:
        build: makes the samples, each a value for every column; counts what it drops and cuts in the record it is
            given.
        columns: the Arrow type of each column by its name: ``int32``, ``bool``, ``string``, ``list<int32>`` …
        key_parts: everything that the samples depend on.
        cache_dir: one folder for all contents; made when missing.
        counts: receives what ``build`` counted, also when the samples come from the cache, and the fingerprint.
        overwrite: build even if the cache has them.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    key = digest((own_code(), repr(sorted(columns.items())), *key_parts))
    folder = cache_dir / key[:32]
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if not is_intact(folder):
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _fill(folder, build, columns)
        except OSError as error:
            raise EnvironmentProblem(
                f"the tokenised data cannot be written: {error.strerror or error}",
                where=str(error.filename or folder),
                remedy="free space there, or choose another folder with cache_dir",
            ) from error
    _merge(counts, json.loads((folder / "counts.json").read_text(encoding="utf-8"))["counts"])
    counts.fingerprint = key
    return _open(folder / "data.arrow")


@cache
def own_code() -> str:
    """Digest of the modules that make tokens: a corrected rule must not be answered with what the old one made."""
    return digest(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))


def digest(parts: Iterable[str]) -> str:
    """One hexadecimal blake3 of several texts, in which no two lists of parts coincide."""
    from blake3 import blake3

    hasher = blake3()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def is_intact(folder: Path) -> bool:
    """Whether a cached folder is whole: both files there, and the data as its digest says."""
    try:
        stated = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        return bool(stated["blake3"] == _file_digest(folder / "data.arrow"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _file_digest(path: Path) -> str:
    from blake3 import blake3

    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())


def _fill(folder: Path, build: Callable[[DataCounts], Iterable[Sample]], columns: Mapping[str, str]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        counts = DataCounts()
        data = temporary / "data.arrow"
        _write(data, build(counts), columns)
        stated = {"blake3": _file_digest(data), "counts": asdict(counts)}
        (temporary / "counts.json").write_text(json.dumps(stated, indent=1), encoding="utf-8")
        _put(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, folder: Path) -> None:
    """Rename into place, unless another process was faster: its folder has the same content and is perhaps in use."""
    if is_intact(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(temporary, folder)  # noqa: PTH105 - names the atomic system call
    except OSError:
        if not is_intact(folder):
            raise


def _write(path: Path, samples: Iterable[Sample], columns: Mapping[str, str]) -> None:
    import pyarrow as pa

    schema = pa.schema([(name, arrow_type(type_name)) for name, type_name in columns.items()])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batched(samples, SAMPLES_AT_ONCE):
            table = {name: [sample[name] for sample in batch] for name in columns}
            writer.write_batch(pa.RecordBatch.from_pydict(table, schema=schema))


def arrow_type(name: str) -> Any:
    """The Arrow type that ``name`` writes: a scalar type, or ``list<…>`` of one."""
    import pyarrow as pa

    element = name.removeprefix("list<").removesuffix(">")
    return pa.list_(pa.type_for_alias(element)) if element != name else pa.type_for_alias(name)


def _open(path: Path) -> Dataset:
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _merge(counts: DataCounts, made: dict[str, Any]) -> None:
    for name in ("tokens", "supervised", "truncated"):
        setattr(counts, name, getattr(counts, name) + made[name])
    for name in ("dropped", "repaired"):
        tally: dict[str, int] = getattr(counts, name)
        for reason, count in made[name].items():
            tally[reason] = tally.get(reason, 0) + count
