"""Folders: what is a model, and what each that is not is told."""

from __future__ import annotations

import json

import pytest

from ft.errors import ConfigError, DataError
from ft.testing import save_tiny_model
from ft_plugins.models.local import ft_resolve_model


def test_a_whole_folder_is_found_by_its_absolute_path(plan_of, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert ft_resolve_model(plan_of("model"), "model").path == str(tmp_path / "model")


def test_a_path_that_does_not_exist_names_its_nearest_siblings(plan_of, tmp_path):
    (tmp_path / "smollm2-135m").mkdir()
    name = str(tmp_path / "smollm-135m")
    with pytest.raises(ConfigError) as caught:
        ft_resolve_model(plan_of(name), name)
    assert caught.value.where == "run.yaml:1"
    assert str(tmp_path / "smollm2-135m") in caught.value.remedy


def test_a_folder_without_config_says_what_it_holds(plan_of, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError) as caught:
        ft_resolve_model(plan_of(str(tmp_path)), str(tmp_path))
    assert "config.json is missing" in caught.value.what
    assert "notes.txt" in caught.value.why


def test_pickled_weights_are_refused_with_the_remedy(plan_of, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickled \(pytorch_model\.bin\)") as caught:
        ft_resolve_model(plan_of(str(folder)), str(folder))
    assert "save_pretrained" in caught.value.remedy


def test_a_missing_shard_is_named(plan_of, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(DataError, match="model-00002-of-00002"):
        ft_resolve_model(plan_of(str(folder)), str(folder))


def test_an_adapter_is_told_which_key_it_belongs_to(plan_of, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ConfigError) as caught:
        ft_resolve_model(plan_of(str(tmp_path)), str(tmp_path))
    assert "model_name_or_path: org/base and adapter_name_or_path" in caught.value.remedy


def test_malformed_config_is_one_error(plan_of, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        ft_resolve_model(plan_of(str(folder)), str(folder))


def test_code_of_a_second_repository_is_refused(plan_of, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil/repo--modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="another repository"):
        ft_resolve_model(plan_of(str(folder), trust_remote_code=True), str(folder))


@pytest.mark.parametrize("name", ["org/model", "gpt2", "pypi:thing", "org/model@main"])
def test_names_that_are_no_paths_are_left_to_others(name, plan_of):
    assert ft_resolve_model(plan_of(name), name) is None


def test_a_folder_with_a_gguf_file_is_left_to_others(plan_of, tmp_path):
    (tmp_path / "model.gguf").touch()
    assert ft_resolve_model(plan_of(str(tmp_path)), str(tmp_path)) is None
