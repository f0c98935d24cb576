"""Token ids on disk, addressed by content: the same data, template, tokenizer and options are never tokenised twice.

A folder of its own for each content holds ``data.arrow`` (an Arrow stream, memory-mapped by ``datasets``) and
``counts.json`` (what became of the rows, what they are made of, and the digest of the data). It is written beside its
place and renamed, so that nobody sees half of it; one whose digest does not match is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ft.errors import DataError, EnvironmentProblem
from ft.files import json_object
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datasets import Dataset

T = TypeVar("T")

Sample = Mapping[str, Any]
"""A value for every column."""

DATA: Final = "data.arrow"
COUNTS: Final = "counts.json"

PIECE: Final = 1 << 20
SAMPLES_AT_ONCE: Final = 1000
"""Rows of an Arrow batch; memory stays flat however large the data set is."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tokens were made of, as digests: the examples, the way they became tokens, and the code that did it.

    ``data`` is empty when the examples are not at hand.
    """

    data: str
    recipe: str
    code: str

    @property
    def key(self) -> str:
        return digest((self.data, self.recipe, self.code))


@dataclass(frozen=True, slots=True)
class Making:
    """How a data set is made, if it has to be.

    ``build`` yields the samples, each a value for every column, and counts what it drops and cuts in the record it is
    given. ``columns`` are the Arrow types by name: ``int32``, ``bool``, ``string``, ``list<int32>`` …
    """

    build: Callable[[DataCounts], Iterable[Sample]]
    columns: Mapping[str, str]
    identity: Identity


def cached_dataset(making: Making, cache_dir: Path, counts: DataCounts, *, overwrite: bool = False) -> Dataset:
    """The samples from the cache if they are there, else made and put there.

    Args:
        making: of the samples.
        cache_dir: one folder for all contents; made when missing.
        counts: receives what was counted, also when the samples come from the cache, and the fingerprint.
        overwrite: make them even if the cache has them.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    folder = cache_dir / making.identity.key[:32]
    if overwrite or not is_intact(folder):
        _fill(folder, making, overwrite=overwrite)
    return _opened(folder, counts)


def kept_dataset(
    making: Making,
    folder: Path,
    counts: DataCounts,
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """The samples that are kept in a folder of the user's, else made and put there.

    Args:
        making: of the samples; an identity without data takes whatever data the folder was made of.
        folder: of this data set alone.
        counts: as for :func:`cached_dataset`.
        overwrite: make them anew, unless there is nothing to make them of.
        tell: told when they were made by another version of the code.

    Raises:
        DataError: the folder holds tokens of other data or made in another way, damaged ones, or something else.
        EnvironmentProblem: it cannot be written.
    """
    identity = making.identity
    if not folder.exists() or not any(folder.iterdir()) or (overwrite and identity.data and stated(folder)):
        _fill(folder, making, overwrite=True)
    if wrong := fault(folder, identity):
        raise DataError(
            f"{folder} is not used",
            where="tokenized_path",
            why=wrong,
            remedy="choose another tokenized_path, or overwrite it with overwrite_cache: true",
        )
    if stated(folder)["identity"]["code"] != identity.code:
        tell(f"{folder} was made by another version of ft; overwrite_cache: true makes it again")
    dataset = _opened(folder, counts)
    if not identity.data:  # of the rows behind the samples nothing is known here
        counts.rows = counts.examples = len(dataset)
    return dataset


def fault(folder: Path, identity: Identity) -> str:
    """Why the tokens of a folder are not those that are asked for; empty when they are."""
    made_of = stated(folder).get("identity")
    if not made_of:
        return "it holds something else than tokens of ft"
    if made_of["recipe"] != identity.recipe:
        return "its tokens were made with another template, tokenizer or option"
    if identity.data and made_of["data"] != identity.data:
        return "its tokens were made of other data"
    return "" if is_intact(folder) else "its data is not as it was written"


def stated(folder: Path) -> dict[str, Any]:
    """What a folder says of its tokens; nothing if it holds none."""
    return json_object(folder / COUNTS)


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
    """Whether a folder is whole: both files there, and the data as its digest says."""
    try:
        return bool(stated(folder)["blake3"] == _file_digest(folder / DATA))
    except (OSError, KeyError):
        return False


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _file_digest(path: Path) -> str:
    """Read in pieces: a mapped file would count as memory of this process."""
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            hasher.update(piece)
    return str(hasher.hexdigest())


def _fill(folder: Path, making: Making, *, overwrite: bool) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
        try:
            _make(temporary, making)
            _put(temporary, folder, overwrite=overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"the tokenised data cannot be written: {error.strerror or error}",
            where=str(error.filename or folder),
            remedy="make room there, or choose another folder with cache_dir or tokenized_path",
        ) from error


def _make(folder: Path, making: Making) -> None:
    counts = DataCounts()
    data = folder / DATA
    _write(data, making.build(counts), making.columns)
    stated = {"blake3": _file_digest(data), "identity": asdict(making.identity), "counts": asdict(counts)}
    (folder / COUNTS).write_text(json.dumps(stated, indent=1), encoding="utf-8")


def _put(temporary: Path, folder: Path, *, overwrite: bool) -> None:
    """Rename into place, unless another process was faster: its folder has the same content and is perhaps in use."""
    if is_intact(folder) and not overwrite:
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
            arrays = [_array([sample[field.name] for sample in batch], field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _array(values: list[Any], kind: Any) -> Any:
    """An Arrow array; lists are joined first, as pyarrow's own reading of lists in lists costs more than tokenising."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    ends = np.fromiter(map(len, values), np.int32, len(values)).cumsum(dtype=np.int32)
    joined = np.fromiter(chain.from_iterable(values), kind.value_type.to_pandas_dtype(), ends[-1])
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), pa.array(joined))


def arrow_type(name: str) -> Any:
    """The Arrow type that ``name`` writes: a scalar type, or ``list<…>`` of one."""
    import pyarrow as pa

    element = name.removeprefix("list<").removesuffix(">")
    return pa.list_(pa.type_for_alias(element)) if element != name else pa.type_for_alias(name)


def _opened(folder: Path, counts: DataCounts) -> Dataset:
    from datasets import Dataset

    made = stated(folder)
    counts.add(DataCounts(**made["counts"]))
    counts.fingerprint = Identity(**made["identity"]).key
    return Dataset.from_file(str(folder / DATA))
