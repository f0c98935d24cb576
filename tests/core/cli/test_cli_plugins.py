"""`ft plugins`: metadata alone for the list, one import for one plugin, and no damage from broken neighbours."""

import json
import sys

import pytest

SPARSE = """
    from pydantic import Field
    from ft_hookspecs import PluginOptions

    class Options(PluginOptions):
        sparse_ratio: float = Field(0.5, ge=0, le=1, description="Share of weights that stay.")
        sparse_order: int = Field(description="Which first.")

    @hookimpl
    def ft_options():
        return Options

    @hookimpl
    def ft_run_finished(run):
        pass
"""


def listed(ft, *words):
    return json.loads(ft("plugins", "list", "--json", *words).stdout)


def test_list_shows_kind_name_distribution_and_version(ft, no_discovery, fake_plugin):
    fake_plugin("sparse", "raise RuntimeError('imported')", kind="adapters", version="2.1")
    result = ft("plugins", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["adapters"],
        ["sparse", "ft-sparse", "2.1", "fake_sparse_0"],
    ]
    assert listed(ft)["plugins"] == [
        {
            "kind": "adapters",
            "name": "sparse",
            "distribution": "ft-sparse",
            "version": "2.1",
            "entry_point": "fake_sparse_0",
            "ambiguous": False,
        }
    ]
    assert "fake_sparse_0" not in sys.modules


def test_list_of_one_kind(ft, no_discovery, fake_plugin):
    fake_plugin("sparse", kind="adapters")
    fake_plugin("wandb", kind="loggers")
    assert [plugin["name"] for plugin in listed(ft, "--kind", "loggers")["plugins"]] == ["wandb"]
    assert "sparse" not in ft("plugins", "list", "--kind", "loggers").stdout


def test_an_unknown_kind_is_refused_with_the_kinds(ft):
    result = ft("plugins", "list", "--kind", "logger")
    assert result.exit_code == 2
    assert "loggers" in result.stderr


def test_ambiguous_and_damaged_plugins_are_marked_and_hurt_no_other(ft, no_discovery, fake_plugin):
    fake_plugin("sparse", kind="adapters", distribution="ft-one")
    fake_plugin("sparse", kind="adapters", distribution="ft-two")
    fake_plugin("other", kind="logger", distribution="ft-three")
    fake_plugin("fine", SPARSE, kind="stages")
    found = listed(ft)
    assert [(plugin["name"], plugin["ambiguous"]) for plugin in found["plugins"]] == [
        ("fine", False),
        ("sparse", True),
        ("sparse", True),
    ]
    assert [broken["distribution"] for broken in found["broken"]] == ["ft-three"]
    text = ft("plugins", "list").stdout
    assert text.count("claimed 2 times") == 2
    assert "cannot be used: ft-three" in text
    assert ft("plugins", "show", "fine").exit_code == 0
    ambiguous = ft("plugins", "show", "sparse")
    assert ambiguous.exit_code == 3
    assert "ft-one" in ambiguous.stderr
    assert "ft-two" in ambiguous.stderr


def test_show_imports_that_one_alone(ft, no_discovery, fake_plugin):
    fake_plugin("broken", "raise RuntimeError('do not import me')")
    fake_plugin("sparse", SPARSE, kind="adapters")
    details = json.loads(ft("plugins", "show", "adapters:sparse", "--json").stdout)
    assert details["hooks"] == ["ft_options", "ft_run_finished"]
    assert details["file"] == sys.modules["fake_sparse_1"].__file__
    assert details["options"] == [
        {
            "key": "sparse_ratio",
            "type": "number",
            "default": 0.5,
            "required": False,
            "description": "Share of weights that stay.",
        },
        {"key": "sparse_order", "type": "integer", "default": None, "required": True, "description": "Which first."},
    ]
    assert "fake_broken_0" not in sys.modules
    text = ft("plugins", "show", "sparse").stdout
    assert [line.split() for line in text.splitlines() if "sparse_order" in line] == [
        ["sparse_order", "integer", "required", "Which", "first."]
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("raise RuntimeError('out of order')", "out of order"), ("@hookimpl\ndef ft_chekc(plan): pass", "ft_chekc")],
)
def test_show_blames_a_broken_plugin_in_one_screen(ft, no_discovery, fake_plugin, source, reason):
    fake_plugin("sparse", source, kind="adapters", version="2.1")
    result = ft("plugins", "show", "sparse")
    assert result.exit_code == 3
    assert reason in result.stderr
    assert "ft-sparse 2.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_show_of_an_unknown_name_offers_the_nearest(ft, no_discovery, fake_plugin):
    fake_plugin("sparse", kind="adapters")
    result = ft("plugins", "show", "sparce")
    assert result.exit_code == 3
    assert "sparse" in result.stderr
