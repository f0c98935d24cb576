"""Finding reads metadata only, and other people's broken metadata hurts nobody."""

import sys
import time
from importlib.metadata import distributions

import pytest

from ft.plugins import find_plugins
from ft.testing import FakeDistribution
from ft_hookspecs import KINDS


@pytest.mark.usefixtures("no_discovery")
class TestAlone:
    def test_nothing_is_found_where_nothing_is_installed(self):
        assert tuple(find_plugins()) == ()

    def test_a_plugin_is_found_and_not_imported(self, fake_plugin):
        fake = fake_plugin("sparse", "raise SystemExit\n", kind="adapters", distribution="ft-sparse", version="2.1")
        (info,) = find_plugins()
        (module,) = (name.removesuffix(".py") for name in fake.modules)
        assert (info.id, info.distribution, info.version, info.value) == ("adapters:sparse", "ft-sparse", "2.1", module)
        assert module not in sys.modules

    def test_plugins_come_by_kind_and_name(self, fake_plugin):
        for kind, name in (("plugins", "a"), ("loggers", "c"), ("loggers", "b"), ("stages", "z")):
            fake_plugin(name, kind=kind)
        found = find_plugins()
        assert [info.id for info in found] == ["stages:z", "loggers:b", "loggers:c", "plugins:a"]
        assert found.named("c") == found.named("loggers:c") == found.plugins[2:3]
        assert found.named("stages:c") == ()

    def test_the_same_distribution_twice_on_the_path_counts_once(self, fake_plugin):
        fake_plugin("sparse", distribution="ft_sparse", version="1.0")
        fake_plugin("sparse", distribution="FT-Sparse", version="2.0")
        (info,) = find_plugins()
        assert info.version == "2.0", "the folder that was put first is the one that imports see"

    def test_two_distributions_that_claim_a_name_are_both_shown(self, fake_plugin):
        fake_plugin("sparse", distribution="ft-a")
        fake_plugin("sparse", distribution="ft-b")
        assert [info.distribution for info in find_plugins().named("sparse")] == ["ft-a", "ft-b"]

    def test_selectors_are_not_plugins(self, fake_plugin):
        fake_plugin("sparse", kind="selectors")
        assert find_plugins().plugins == find_plugins().broken == ()

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"[ft.stages]\nno equals sign\n", "TypeError"),
            (b"[ft.stages]\nx = 1\xff\xfe\n", "UnicodeDecodeError"),
            (b"[ft.stages]\nsparse = not a module!\n", "'not a module!' does not name a module"),
            (b"[ft.stage]\nsparse = there\n", "ft.stage (sparse) is not a kind of plugin; did you mean ft.stages?"),
        ],
    )
    def test_damaged_entry_points_are_reported_and_the_others_found(self, fake_plugin, tmp_path, text, why):
        fake_plugin("good")
        fake_plugin("sparse")
        (tmp_path / "site-1" / "ft_sparse-1.0.dist-info" / "entry_points.txt").write_bytes(text)
        found = find_plugins()
        assert [info.name for info in found] == ["good"]
        (broken,) = found.broken
        assert broken.distribution == "ft-sparse"
        assert why in broken.why

    @pytest.mark.parametrize("metadata", [None, "", "Name: ", "\x00\x01 no metadata at all"])
    def test_a_distribution_without_a_name_or_version_is_not_fatal(self, fake_plugin, tmp_path, metadata):
        fake_plugin("good")
        fake_plugin("sparse")
        path = tmp_path / "site-1" / "ft_sparse-1.0.dist-info" / "METADATA"
        path.unlink() if metadata is None else path.write_text(metadata)
        found = find_plugins()
        assert "good" in {info.name for info in found}
        names = [info.distribution for info in found.named("sparse")] + [one.distribution for one in found.broken]
        assert any("site-1" in name for name in names), "it is told by where it lies"

    def test_garbage_of_strangers_is_passed_over(self, fake_plugin, tmp_path):
        fake_plugin("good")
        FakeDistribution("stranger").install(tmp_path / "site-0")
        (tmp_path / "site-0" / "stranger-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\nwhat\n")
        assert [info.name for info in find_plugins()] == ["good"]
        assert find_plugins().broken == ()


def test_the_plugins_that_ship_here_are_found_like_any_other():
    found = find_plugins()
    assert {info.kind for info in found} <= set(KINDS)
    assert [info.distribution for info in found.named("stages:sft")] == ["ft-framework"]


def test_finding_costs_no_more_than_reading_every_entry_point_file():
    def seconds(action) -> float:
        begun = time.process_time()
        action()
        return time.process_time() - begun

    reading = min(seconds(lambda: [one.read_text("entry_points.txt") for one in distributions()]) for _ in range(3))
    finding = min(seconds(find_plugins) for _ in range(3))
    assert finding < 3 * reading + 0.02
