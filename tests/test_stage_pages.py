"""Each stage that ships has a page, which explains each of its keys and whose example can be planned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ft.planning import make_plan
from ft.plugins import PluginManager, find_plugins
from ft_plugins.stages._rewards import RewardOptions

if TYPE_CHECKING:
    from ft_hookspecs import PluginInfo

PAGES = Path(__file__).parents[1] / "docs" / "stages"
STAGES = [info for info in find_plugins() if (info.kind, info.distribution) == ("stages", "ft-framework")]

CHAINED = {"dpo", "kto", "ppo", "grpo", "rloo"}
"""Their examples start from what others saved; tests/examples plans them after those."""


@pytest.fixture(params=STAGES, ids=lambda info: info.name)
def stage(request: pytest.FixtureRequest) -> PluginInfo:
    info: PluginInfo = request.param
    return info


def page(stage: PluginInfo) -> str:
    return (PAGES / f"{stage.name}.md").read_text(encoding="utf-8")


def keys_of(stage: PluginInfo) -> set[str]:
    manager = PluginManager()
    manager.load(stage)
    return {key for _, model in manager.each("ft_options") for key in model.model_fields}


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+)\.md\)", (PAGES / "index.md").read_text(encoding="utf-8")))
    assert linked == {info.name for info in STAGES} == {path.stem for path in PAGES.glob("*.md")} - {"index"}


def test_every_key_of_the_stage_is_explained(stage: PluginInfo) -> None:
    """On its page, or on the page of another stage that this one refers to."""
    referred = [PAGES / name for name in re.findall(r"\]\((\w+\.md)", page(stage))]
    texts = [page(stage), *(path.read_text(encoding="utf-8") for path in referred)]
    assert keys_of(stage) - {word for text in texts for word in re.findall(r"`(\w+)[`:]", text)} == set()


def test_a_table_of_keys_has_no_others(stage: PluginInfo) -> None:
    known = {key for info in STAGES for key in keys_of(info)} | set(RewardOptions.model_fields)
    tables = re.findall(r"^\| key .*\n((?:\|.*\n)+)", page(stage), re.MULTILINE)
    first_cells = re.findall(r"^\|([^|]*)\|", "".join(tables), re.MULTILINE)
    assert {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)} <= known


def test_the_example_can_be_planned(stage: PluginInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of YAML, and the configuration of the stage that ``ft run`` names."""
    monkeypatch.chdir(PAGES.parents[1])
    named = re.findall(rf"^(?:\$ )?ft run (\S*\b{stage.name}\.yaml)", page(stage), re.MULTILINE)
    configs = [Path(path) for path in named]
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page(stage), re.MULTILINE | re.DOTALL)):
        configs.append(tmp_path / f"{number}.yaml")
        configs[-1].write_text(text)
    assert configs
    for config in configs if stage.name not in CHAINED else ():
        plan, _ = make_plan(config, [f"output_dir={tmp_path / 'out'}"])
        assert plan.has("stages", stage.name)
