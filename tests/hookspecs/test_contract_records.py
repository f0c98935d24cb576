"""The contract imports nothing heavy and nothing of ft, and its records behave."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pydantic
import pytest

import ft_hookspecs
from ft_hookspecs import DataCounts, Plan, PluginInfo, PluginOptions, Run, Source, Stash, StashKey


class SparseOptions(PluginOptions):
    sparse_ratio: float = 0.5


class OtherOptions(PluginOptions):
    other: int = 1


LORA = PluginInfo("adapters", "lora", "m", "ft-framework", "1.0")


@pytest.fixture
def plan():
    return Plan(
        values={"sparse_ratio": 0.5, "seed": 1},
        sources={"sparse_ratio": Source("plugin default"), "seed": Source("file", "a.yaml:3")},
        plugins=(LORA,),
        models=(SparseOptions(),),
        output_dir=None,
    )


def test_the_contract_is_light():
    code = (
        "import sys, ft_hookspecs, ft_hookspecs.specs; print(*sorted(name for name in ('torch', 'transformers', "
        "'datasets', 'numpy', 'ft', 'ft_plugins') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there_in_order():
    assert all(hasattr(ft_hookspecs, name) for name in ft_hookspecs.__all__)
    assert len(set(ft_hookspecs.__all__)) == len(ft_hookspecs.__all__)


def test_a_plan_gives_options_typed_and_tells_what_the_user_set(plan):
    assert plan.of(SparseOptions).sparse_ratio == 0.5
    with pytest.raises(LookupError, match="OtherOptions"):
        plan.of(OtherOptions)
    assert (plan.is_set("seed"), plan.is_set("sparse_ratio"), plan.is_set("absent")) == (True, False, False)
    assert (plan.get("seed"), plan.get("absent", 7)) == (1, 7)
    assert (plan.has("adapters", "lora"), plan.has("stages", "lora")) == (True, False)
    assert plan.plugin("adapters") == LORA
    assert plan.plugin("stages") is None
    with pytest.raises(FrozenInstanceError):
        plan.values = {}


def test_options_are_frozen_and_know_their_keys():
    with pytest.raises(pydantic.ValidationError):
        SparseOptions().sparse_ratio = 1.0
    with pytest.raises(pydantic.ValidationError):
        SparseOptions(sparse_ration=1.0)


def test_a_plugin_is_shown_with_its_distribution_and_version():
    assert str(LORA) == "'lora' (adapters, ft-framework 1.0, m)"
    assert str(PluginInfo("plugins", "mine", "mine.py", "in-house", "")) == "'mine' (plugins, in-house, mine.py)"


def test_a_stash_keeps_equal_names_apart():
    stash, one, other = Stash(), StashKey[int]("count"), StashKey[int]("count")
    stash[one] = 1
    assert (stash[one], one in stash, other in stash, stash.get(other, 5)) == (1, True, False, 5)


def test_a_run_has_an_output_folder_only_when_its_plan_has(plan):
    with pytest.raises(ValueError, match="no output_dir"):
        _ = Run(plan).output_dir


def test_drops_are_counted_by_reason():
    counts = DataCounts()
    for reason in ("too long", "empty", "too long"):
        counts.drop(reason)
    assert counts.dropped == {"too long": 2, "empty": 1}


def test_counts_leave_nothing_unsaid():
    assert str(DataCounts(rows=2, examples=2, tokens=1500, supervised=9)) == "2 examples, 1,500 tokens (9 supervised)"
    counts = DataCounts(rows=3, examples=2, truncated=1, dropped={"empty": 1}, repaired={"made whole": 4})
    assert str(counts) == "2 examples of 3 rows, 0 tokens (0 supervised), 1 cut, 1 dropped (empty), 4 made whole"
