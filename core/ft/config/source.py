"""Reads a configuration file, YAML 1.2 or JSON, with the line of each key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.config import json_reader, yaml_reader
from ft.errors import ConfigError

if TYPE_CHECKING:
    from ft.config.given import Given

FORMATS: Final = (".yaml", ".yml", ".json")


def read_file(path: Path) -> list[tuple[str, Given]]:
    """The keys of a file in order, repeated ones included.

    Raises:
        ConfigError: the file is missing, unreadable, empty, malformed, or not a mapping of keys to values.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"{path} is neither YAML nor JSON", where=str(path), remedy=f"use a name that ends in {', '.join(FORMATS)}"
        )
    text = _text(path)
    reader = json_reader if path.suffix.lower() == ".json" else yaml_reader
    try:
        entries = list(reader.entries(text, str(path)))
    except RecursionError:
        raise ConfigError("the file nests too deeply", where=str(path), remedy="nest fewer levels") from None
    if not entries:
        raise ConfigError(f"{path} has no keys", where=str(path), remedy="write at least model_name_or_path: …")
    return entries


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        what, remedy = "no such configuration file", f"the current folder is {Path.cwd()}"
    except IsADirectoryError:
        what, remedy = "the configuration is a folder", "name a file in it"
    except UnicodeDecodeError as error:
        what, remedy = f"the file is not UTF-8 (byte {error.start})", "save it as UTF-8"
    except OSError as error:
        what, remedy = f"the file cannot be read: {error.strerror}", "check its permissions"
    raise ConfigError(f"{what}: {path}", where=str(path), remedy=remedy)
