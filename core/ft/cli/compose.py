"""From the words of a command line to a plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.config.source import FORMATS
from ft.options import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ft.plugins import PluginManager
    from ft_hookspecs import Plan

SWITCHES = ("--do_", "--overwrite_")  # keys beginning so are switches: no file is their value
TRUTHS = {"true", "false"}


def plan_of(
    words: Sequence[str] | None, plugins: Sequence[str] | None, excluded: Sequence[str] | None
) -> tuple[Plan, PluginManager]:
    """The checked plan that the words describe.

    Raises:
        FtError: the configuration, a plugin or the environment is wrong.
    """
    from ft.planning import make_plan

    config, arguments = split_config(words or ())
    return make_plan(config, arguments, split_names(plugins), split_names(excluded), os.environ)


def schema_of(
    words: Sequence[str] | None, plugins: Sequence[str] | None, excluded: Sequence[str] | None
) -> dict[str, Any]:
    """JSON Schema of every key of the composition that the words describe; no model need be named yet."""
    from ft.planning import schema

    config, arguments = split_config(words or ())
    return schema(config, arguments, split_names(plugins), split_names(excluded), os.environ)


def split_names(values: Sequence[str] | None) -> list[str]:
    """``["a,b", "c"]`` → ``["a", "b", "c"]``."""
    return [name for value in values or () for name in listed(value)]


def split_config(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The configuration file among the words, and the others in order.

    It is the first word with the suffix of one that stands where no flag takes it as its value:
    ``--learning_rate 5e-4 config.yaml`` has one, ``--deepspeed ds.json`` has none.
    """
    index = next((index for index in free_words(words) if _is_config(words[index])), None)
    return (None, list(words)) if index is None else (Path(words[index]), [*words[:index], *words[index + 1 :]])


def free_words(words: Sequence[str]) -> Iterator[int]:
    """The positions of the words that are no flags, nor the values of flags."""
    expecting = False
    for index, word in enumerate(words):
        if not expecting and not word.startswith("-"):
            yield index
        expecting = word.startswith("--") and "=" not in word and not _is_switch(word, words[index + 1 : index + 2])


def _is_config(word: str) -> bool:
    return "=" not in word and word.lower().endswith(FORMATS)


def _is_switch(flag: str, following: Sequence[str]) -> bool:
    return flag.startswith(SWITCHES) and not any(word.lower() in TRUTHS for word in following)
