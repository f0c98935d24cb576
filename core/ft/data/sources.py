"""Which data sets a run names, and where each of them lies."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ft.errors import DataError, did_you_mean
from ft.options import DataOptions
from ft_hookspecs import DatasetSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ft_hookspecs import Plan

INFO: Final = "dataset_info.json"
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_NAME: Final = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt)(\.gz)?$", re.IGNORECASE)

REFUSED: Final = {
    "script_url": ("it would run a Python script that comes with the data", "load the script's output from a file"),
    "ms_hub_url": ("only the Hugging Face hub is read", "give hf_hub_url, or download the files and give file_name"),
    "om_hub_url": ("only the Hugging Face hub is read", "give hf_hub_url, or download the files and give file_name"),
    "cloud_file_name": ("cloud storage is not read", "download the file and give file_name"),
}
"""Keys of an entry that say where the data lies in a way that ft does not follow: why not, and what to do."""


OF_HUB: Final = {"subset": (None,), "split": (None, "train")}
"""Keys of an entry that say something of a data set on the hub alone, with the values that ask for nothing."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ``json`` would silently take the last of two values of one key.

    Raises:
        ValueError: a key stands twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice in one object")
    return made


class Entry(BaseModel):
    """One entry of ``dataset_info.json``; unnamed columns and tags keep the defaults of the format."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    file_name: str | None = Field(None, min_length=1)
    hf_hub_url: str | None = Field(None, min_length=1)
    ms_hub_url: str | None = None
    om_hub_url: str | None = None
    script_url: str | None = None
    cloud_file_name: str | None = None
    formatting: str = ""
    ranking: bool = False
    subset: str | None = None
    split: str | None = None
    folder: str | None = None
    num_samples: int | None = Field(None, gt=0)
    columns: dict[str, str | None] = Field(default_factory=dict)
    tags: dict[str, str | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class DatasetInfo:
    """The entries of one ``dataset_info.json`` as they stand there; none when there is no such file."""

    folder: Path
    entries: Mapping[str, object] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def read(cls, folder: Path) -> DatasetInfo:
        """Read the file.

        Raises:
            DataError: it is not UTF-8 or not a JSON object; ``where`` is ``file:line``.
        """
        path = folder / INFO
        if not path.is_file():
            return cls(folder)
        try:
            text = path.read_text(encoding="utf-8-sig")
            entries = json.loads(text, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{INFO} is not valid JSON: {error.msg}",
                where=f"{path}:{error.lineno}:{error.colno}",
                remedy="correct the file at this place; JSON allows no comments and no comma before a closing bracket",
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{INFO} cannot be read", where=f"{path}:1", why=str(error)) from None
        if not isinstance(entries, dict):
            raise DataError(f"{INFO} is not an object of names", where=f"{path}:1", remedy='write {"name": {…}}')
        return cls(folder, entries, text)

    @property
    def path(self) -> Path:
        return self.folder / INFO

    def place(self, name: str) -> str:
        """``file:line`` of an entry."""
        found = re.search(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", self.text)
        line = self.text.count("\n", 0, found.start()) + 1 if found else 1
        return f"{self.path}:{line}"


def dataset_sources(plan: Plan, key: str = "dataset") -> list[DatasetSource]:
    """The data sets that ``dataset`` or ``eval_dataset`` names, in order.

    Each is looked for as an entry of ``dataset_info.json``, then as a file or folder (from the working directory, then
    from ``dataset_dir``), then as a hub id. The ``location`` of a file or folder is absolute; any other is a hub id.

    Raises:
        DataError: no such data set, or an entry that is malformed or asks for what ft does not do.
    """
    options = plan.of(DataOptions)
    names = options.dataset if key == "dataset" else options.eval_dataset
    if not names:
        return []
    info = DatasetInfo.read(Path(options.dataset_dir))
    return [find_source(name, info, options.split) for name in names]


def find_source(name: str, info: DatasetInfo, split: str = "train") -> DatasetSource:
    """One data set by its name, path or hub id; ``split`` is that of an entry which names none."""
    if name in info.entries:
        return _from_entry(name, info, split)
    for path in (Path(name), info.folder / name):
        if path.exists():
            return DatasetSource(name, str(path.resolve()), declared_at=str(path), split=split)
    if HUB_ID.fullmatch(name) and not FILE_NAME.search(name):
        return DatasetSource(name, name, split=split)
    raise _unknown(name, info)


def _unknown(name: str, info: DatasetInfo) -> DataError:
    if FILE_NAME.search(name):
        return DataError(
            f"the data file {name!r} does not exist",
            where=str(Path.cwd() / name),
            why=f"it is neither under the working directory nor under dataset_dir ({info.folder})",
            remedy="correct the path",
        )
    known = f"{info.path} names {len(info.entries)} data sets" if info.text else f"there is no {info.path}"
    return DataError(
        f"unknown data set {name!r}",
        where=str(info.path),
        why=f"{known}, and there is no file or folder of that name",
        remedy=did_you_mean(name, info.entries, 3)
        or "give a name in it, the path of a file, or a hub id such as owner/name; dataset_dir says where",
    )


def _from_entry(name: str, info: DatasetInfo, split: str) -> DatasetSource:
    where = info.place(name)
    entry = _parse(name, info.entries[name], where)
    if not entry.hf_hub_url and (idle := next((key for key in OF_HUB if getattr(entry, key) not in OF_HUB[key]), None)):
        raise DataError(
            f"{idle}: {getattr(entry, idle)} of the data set {name!r} has no effect",
            where=where,
            why="only a data set on the hub has parts; files are read whole",
            remedy=f"take {idle} out, or name the file of that part",
        )
    return DatasetSource(
        name,
        entry.hf_hub_url or _file(name, entry, info, where),
        formatting=entry.formatting,
        columns={key: column for key, column in entry.columns.items() if column},
        tags={key: tag for key, tag in entry.tags.items() if tag},
        ranking=entry.ranking,
        split=entry.split or split,
        subset=entry.subset,
        folder=entry.folder,
        num_samples=entry.num_samples,
        declared_at=where,
    )


def _parse(name: str, entry: object, where: str) -> Entry:
    try:
        return Entry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        known = [key for key in Entry.model_fields if key not in REFUSED]
        raise DataError(
            f"the data set {name!r} is not declared as it should be",
            where=where,
            why=f"unknown key {key!r}" if unknown else ": ".join(filter(None, (key, first["msg"]))),
            remedy=(unknown and did_you_mean(key, known, 3)) or f"the keys are {', '.join(known)}",
        ) from None


def _file(name: str, entry: Entry, info: DatasetInfo, where: str) -> str:
    """The absolute path of ``file_name``, which must lie inside ``dataset_dir``: the file may come from elsewhere."""
    if entry.file_name is None:
        for key, (why, remedy) in REFUSED.items():
            if getattr(entry, key):
                raise DataError(f"the data set {name!r} has only {key}", where=where, why=why, remedy=remedy)
        raise DataError(
            f"the data set {name!r} does not say where its files are", where=where, remedy="give it a file_name"
        )
    path = (info.folder / entry.file_name).resolve()
    if not path.is_relative_to(info.folder.resolve()):
        raise DataError(
            f"the file of {name!r} lies outside dataset_dir: {entry.file_name}",
            where=where,
            why=f"a {INFO} may name only files in its own folder",
            remedy=f"give the file itself: dataset: {path}",
        )
    if not path.exists():
        remedy = did_you_mean(entry.file_name, (file.name for file in path.parent.glob("*")), 3) or "correct file_name"
        raise DataError(f"the file of {name!r} does not exist: {path}", where=where, remedy=remedy)
    return str(path)
