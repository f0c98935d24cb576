"""One table over every plugin that ships here: it loads, fits the contract, describes its keys and stays light.

The entry points of the installed distribution are read, so a new plugin is in the table as soon as it is declared.
"""

import json
import subprocess
import sys

import pytest

from ft.plugins import PluginManager, find_plugins, find_selectors
from ft_hookspecs import API_VERSION, KINDS, PluginInfo, PluginOptions

PLUGINS = [info for info in find_plugins() if info.distribution == "ft-framework"]
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "pyarrow", "matplotlib", "tensorboard")

EXPECTED_HOOKS = {
    "stages": {"ft_prepare_dataset", "ft_build_trainer"},
    "adapters": {"ft_adapt_model", "ft_save_model"},
    "quantizers": {"ft_quantize_model", "ft_model_load_options", "ft_load_model"},
    "accelerators": {"ft_accelerate_model", "ft_model_load_options"},
    "optimizers": {"ft_create_optimizer", "ft_check"},
    "loggers": {"ft_log", "ft_callbacks"},
    "models": {"ft_resolve_model"},
    "datasets": {"ft_load_dataset", "ft_read_format", "ft_template"},
}
"""What makes a plugin one of its kind: all of these for stages and adapters, at least one for the others."""

ALONE = ("stages", "adapters")
"""Of these kinds a run has one plugin, so that two of them may share a key."""

PROGRAM = f"""
import json, sys
from ft.plugins import PluginManager, find_plugins
manager, imported = PluginManager(), {{}}
for info in find_plugins():
    if info.distribution == "ft-framework":
        manager.load(info)
        list(manager.call(info, "ft_options").model_fields) if info in manager.implementers("ft_options") else None
        new = [name for name in {HEAVY} if name in sys.modules and name not in sum(imported.values(), [])]
        imported[info.id] = new
print(json.dumps(imported))
"""


def loaded(info: PluginInfo) -> PluginManager:
    manager = PluginManager()
    manager.load(info)
    return manager


def test_there_is_a_plugin_of_each_kind_that_a_run_needs():
    assert {info.kind for info in PLUGINS} >= {"stages", "adapters", "loggers", "models", "datasets"}
    assert {info.kind for info in PLUGINS} <= set(KINDS)


@pytest.mark.parametrize("info", PLUGINS, ids=lambda info: info.id)
class TestPlugin:
    def test_it_loads_and_fits_its_kind(self, info):
        manager = loaded(info)
        wanted = EXPECTED_HOOKS.get(info.kind, set())
        has = {hook for hook in wanted if manager.implementers(hook)}
        assert has == wanted if info.kind in ("stages", "adapters") else has or not wanted

    def test_its_keys_are_typed_and_described(self, info):
        for _, model in loaded(info).each("ft_options"):
            assert issubclass(model, PluginOptions)
            for key, field in model.model_fields.items():
                assert field.description, f"{key} has no description"
                assert field.annotation is not None
                assert key == key.lower()
            model.model_json_schema()

    def test_it_is_where_its_entry_point_says(self, info):
        assert info.value.startswith("ft_plugins.")
        assert info.value.rpartition(".")[2] == info.name, "a plugin's file is named as the user names it"


def test_no_plugin_imports_anything_heavy_before_it_acts():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {plugin: names for plugin, names in json.loads(done.stdout).items() if names} == {}


def test_all_plugins_can_be_loaded_together_and_claim_no_key_twice():
    manager, owners = PluginManager(), {}
    for info in PLUGINS:
        manager.load(info)
    models = [(info, model) for info, model in manager.each("ft_options")]
    models += [(selector.info, selector.options) for selector in find_selectors()]
    for owner, model in models:
        for key in model.model_fields:
            others = [other for other in owners.setdefault(key, []) if not (owner.kind == other.kind in ALONE)]
            assert not others, f"{owner} and {others[0]} both declare {key}"
            owners[key].append(owner)
    assert API_VERSION == 1, "a new version needs every built-in plugin looked through"
