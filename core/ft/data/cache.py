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

    from ft.data.spans import Tokens

T = TypeVar("T")

SAMPLES_AT_ONCE: Final = 1000
"""Rows of an Arrow batch; memory stays flat however large the data set is."""


def cached_dataset(
    build: Callable[[DataCounts], Iterable[Tokens]],
    *,
    key_parts: Iterable[str],
    cache_dir: Path,
    counts: DataCounts,
    overwrite: bool = False,
    weighted: bool = False,
) -> Dataset:
    """The samples that ``build`` gives, from the cache if they are there.

    Args:
        build: makes the samples; counts what it drops and cuts in the record it is given.
        key_parts: everything that the samples depend on.
        cache_dir: one folder for all contents; made when missing.
        counts: receives what ``build`` counted, also when the samples come from the cache, and the fingerprint.
        overwrite: build even if the cache has them.
        weighted: whether there is a column ``loss_weights``.

    Returns:
        Columns ``input_ids`` and ``labels`` (int32), ``length``, and ``loss_weights`` (float32) if weighted.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    key = digest((own_code(), str(weighted), *key_parts))
    folder = cache_dir / key[:32]
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if not is_intact(folder):
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _fill(folder, build, weighted)
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


def _fill(folder: Path, build: Callable[[DataCounts], Iterable[Tokens]], weighted: bool) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        counts = DataCounts()
        data = temporary / "data.arrow"
        _write(data, build(counts), weighted)
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


def _write(path: Path, samples: Iterable[Tokens], weighted: bool) -> None:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    fields = [("input_ids", ids), ("labels", ids), ("length", pa.int32())]
    schema = pa.schema([*fields, ("loss_weights", pa.list_(pa.float32()))] if weighted else fields)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batched(samples, SAMPLES_AT_ONCE):
            writer.write_batch(pa.RecordBatch.from_pydict(_columns(batch, weighted), schema=schema))


def _columns(batch: list[Tokens], weighted: bool) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "input_ids": [sample.input_ids for sample in batch],
        "labels": [sample.labels for sample in batch],
        "length": [len(sample.input_ids) for sample in batch],
    }
    if weighted:
        columns["loss_weights"] = [sample.loss_weights or [1.0] * len(sample.labels) for sample in batch]
    return columns


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
