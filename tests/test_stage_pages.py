"""Each stage that ships has a page, whose key table is that of its option model and whose example can be planned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ft.planning import make_plan
from ft.plugins import PluginManager, find_plugins

if TYPE_CHECKING:
    from ft_hookspecs import PluginInfo

PAGES = Path(__file__).parents[1] / "docs" / "stages"
STAGES = [info for info in find_plugins().of("stages") if info.distribution == "ft-framework"]


@pytest.fixture(params=STAGES, ids=lambda info: info.name)
def stage(request: pytest.FixtureRequest) -> PluginInfo:
    info: PluginInfo = request.param
    return info


def page(stage: PluginInfo) -> str:
    return (PAGES / f"{stage.name}.md").read_text(encoding="utf-8")


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+)\.md\)", (PAGES / "index.md").read_text(encoding="utf-8")))
    assert linked == {info.name for info in STAGES} == {path.stem for path in PAGES.glob("*.md")} - {"index"}


def test_the_table_holds_the_keys_of_the_stage(stage: PluginInfo) -> None:
    manager = PluginManager()
    manager.load(stage)
    declared = {key for _, model in manager.each("ft_options") for key in model.model_fields}
    tables = re.findall(r"^\| key .*\n((?:\|.*\n)+)", page(stage), re.MULTILINE)
    first_cells = re.findall(r"^\|([^|]*)\|", "".join(tables), re.MULTILINE)
    assert {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)} == declared


def test_the_example_can_be_planned(stage: PluginInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of YAML, and the configuration of the stage that ``ft run`` names."""
    monkeypatch.chdir(PAGES.parents[1])
    named = re.findall(rf"^(?:\$ )?ft run (\S*\b{stage.name}\.yaml)", page(stage), re.MULTILINE)
    configs = [Path(path) for path in named]
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page(stage), re.MULTILINE | re.DOTALL)):
        configs.append(tmp_path / f"{number}.yaml")
        configs[-1].write_text(text)
    assert configs
    for config in configs:
        plan, _ = make_plan(config, [f"output_dir={tmp_path / 'out'}"])
        assert plan.has("stages", stage.name)
