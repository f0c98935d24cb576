"""What ``ft data check`` and ``ft data preview`` share: which data is meant, and the stage's view of it."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from ft.cli.compose import free_words, split_config, split_names
from ft.data.sources import FILE_NAME
from ft.errors import ConfigError
from ft.options import DataOptions
from ft.planning import compose, freeze
from ft_hookspecs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ft.plugins import PluginManager
    from ft_hookspecs import Plan

MODEL: Final = "model_name_or_path"
NO_MODEL: Final = "none"
KEYS: Final = ("dataset", "eval_dataset")


@dataclass(frozen=True)
class Target:
    """A plan as far as its data goes; without a model rows can be read, but not tokenised."""

    plan: Plan
    manager: PluginManager
    has_model: bool


def target_of(words: Sequence[str], plugins: Sequence[str] | None, excluded: Sequence[str] | None) -> Target:
    """The data that the words mean. What does not concern data (the device, ``output_dir``) is not checked.

    Raises:
        Problems: the configuration is wrong.
        ConfigError: no data set is named.
        PluginError: a plugin cannot be had.
    """
    config, arguments = split_data(words)
    composition = compose(config, arguments, split_names(plugins), split_names(excluded), os.environ)
    has_model = any(MODEL in level for level in composition.settings.levels)
    if not has_model:
        arguments = [*arguments, f"{MODEL}={NO_MODEL}"]
        composition = compose(config, arguments, split_names(plugins), split_names(excluded), os.environ)
    plan = freeze(composition.resolve(), composition.manager, config)
    if not any(plan.get(key) for key in KEYS):
        raise ConfigError("no data set is named", remedy="give a data file, or set dataset")
    return Target(plan, composition.manager, has_model)


def split_data(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The configuration file, and the other words with the data files and folders among them as ``dataset``."""
    data = [index for index in free_words(words) if is_data(words[index])]
    config, arguments = split_config([word for index, word in enumerate(words) if index not in data])
    return config, arguments + ([f"dataset={json.dumps([words[index] for index in data])}"] if data else [])


def is_data(word: str) -> bool:
    """Whether a word names data: a folder, or a file by its suffix; a ``.json`` file if it is no configuration."""
    if "=" in word:
        return False
    path = Path(word)
    if path.suffix.lower() != ".json":
        return bool(FILE_NAME.search(word)) or path.is_dir()
    return path.is_file() and _holds_rows(path)


def _holds_rows(path: Path) -> bool:
    """An array, nothing, or one object a line and more than one line; a configuration is a single object."""
    with path.open("rb") as file:
        if file.read(64).removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            return True
        file.seek(0)
        first, *more = [*islice((line for line in file if line.strip()), 2)] or [b""]
    try:
        return not first or (bool(more) and isinstance(json.loads(first), dict))
    except (ValueError, RecursionError):
        return False


# ---- the stage's view ---------------------------------------------------------------------------------------------


@contextmanager
def stage_run(target: Target) -> Iterator[Run]:
    """A run with tokenizer and template, whose tokens go into a folder that is gone afterwards.

    Raises:
        FtError: the model or its tokenizer cannot be had.
    """
    from ft.cli.output import quiet_libraries
    from ft.lifecycle import find_model

    quiet_libraries()
    run = Run(target.plan)
    find_model(run, target.manager)
    with TemporaryDirectory(prefix="ft-data-") as folder:
        run.plan = altered(
            target.plan, cache_dir=folder, tokenized_path=None, streaming=False, preprocessing_num_workers=None
        )
        yield run


def altered(plan: Plan, **changes: Any) -> Plan:
    """The plan with other values, also in the options of the data."""
    options = plan.of(DataOptions)
    own = {key: value for key, value in changes.items() if key in DataOptions.model_fields}
    models = (options.model_copy(update=own) if model is options else model for model in plan.models)
    return replace(plan, values={**plan.values, **changes}, models=tuple(models))
