"""A run up to the model that would train, in this process: what a test of surgery needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ft.testing.runs import written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ft.plugins import PluginManager
    from ft_hookspecs import Run


def changed_model(keys: Mapping[str, Any], folder: Path, plugins: Sequence[str] = ()) -> tuple[Run, PluginManager]:
    """Plan a run, load its model and let the selected plugins quantise, adapt and accelerate it.

    Nothing is trained and no row is read: ``dataset`` is made up unless ``keys`` name one.

    Args:
        keys: of its configuration, ``model_name_or_path`` among them.
        folder: for a made-up ``dataset`` and ``output_dir``.
        plugins: names, or paths of files.

    Returns:
        The run, with ``model``, ``changes``, ``model_files`` and ``tokenizer``, and the plugins.

    Raises:
        FtError: as the run itself would.
    """
    from ft import lifecycle
    from ft.planning import make_plan
    from ft_hookspecs import Run

    data = folder / "rows.json"
    data.write_text(json.dumps([{"instruction": "a", "output": "b"}]), encoding="utf-8")
    usual = {"dataset": data, "output_dir": folder / "out", "use_cpu": True, "dtype": "float32", "template": "chatml"}
    words = [f"{key}={written(value)}" for key, value in {**usual, **keys}.items() if value is not None]
    plan, manager = make_plan(None, words, plugins)
    run = Run(plan)
    for phase in (lifecycle.find_model, lifecycle.load_model, lifecycle.change_model):
        phase(run, manager)
    return run, manager
