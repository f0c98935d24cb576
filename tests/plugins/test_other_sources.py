"""Built-in sources take any name, so whatever else is selected is asked before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ft.planning import make_plan
from ft_hookspecs import DatasetSource, ModelFiles, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MINE = """
from ft_hookspecs import ModelFiles, Row

@hookimpl
def ft_load_dataset(source):
    return [Row({"text": "mine"}, source.location)] if source.location.endswith(".xyz") else None

@hookimpl
def ft_resolve_model(name):
    return ModelFiles("/mine") if name.startswith("s3://") else None

@hookimpl
def ft_add_adapters(model, names):
    return model if names == ["mine"] else None
"""


def test_a_plugin_reads_what_the_built_in_sources_cannot(
    fake_plugin: Callable[..., object], tiny_model_dir: Path, tmp_path: Path
) -> None:
    fake_plugin("mine", MINE)
    words = [f"model_name_or_path={tiny_model_dir}", "dataset=x", f"output_dir={tmp_path / 'out'}"]
    plan, manager = make_plan(None, words, ["mine"])
    file = str(tmp_path / "rows.xyz")
    assert manager.hook.ft_load_dataset(plan=plan, source=DatasetSource("x", file)) == [Row({"text": "mine"}, file)]
    assert manager.hook.ft_resolve_model(plan=plan, name="s3://bucket/a/model") == ModelFiles("/mine")
    model = torch.nn.Identity()
    assert manager.hook.ft_add_adapters(plan=plan, model=model, names=["mine"]) is model
    assert manager.hook.ft_resolve_model(plan=plan, name=str(tiny_model_dir)).path == str(tiny_model_dir)
