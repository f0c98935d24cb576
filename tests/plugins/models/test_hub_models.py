"""The hub: pinned, safetensors only, and honest about why a model cannot be had."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from ft.errors import ConfigError, DataError, EnvironmentProblem
from ft.testing import save_tiny_model
from ft_plugins.models.hub import ft_check, ft_resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands for the hub: raises `hub.error`, or gives the folder of a snapshot."""

    class Hub:
        def __init__(self):
            self.error = None
            self.folder = tmp_path / "snapshots" / COMMIT
            self.asked = {}

        def __call__(self, repo, **options):
            self.asked = {"repo": repo, **options}
            if self.error:
                raise self.error
            return str(self.folder)

    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


def test_the_commit_is_pinned_and_the_token_passed(hub, plan_of):
    save_tiny_model(hub.folder)
    files = ft_resolve_model(plan_of("org/model", hf_hub_token="hf_x"), "org/model@v2")
    assert (files.path, files.revision) == ("org/model", COMMIT)
    assert (hub.asked["repo"], hub.asked["revision"], hub.asked["token"]) == ("org/model", "v2", "hf_x")
    assert "*.py" not in hub.asked["allow_patterns"]
    assert "*.bin" not in hub.asked["allow_patterns"]


def test_a_repository_without_safetensors_is_refused(hub, plan_of):
    folder = save_tiny_model(hub.folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="weights are missing"):
        ft_resolve_model(plan_of("org/model"), "org/model")


def of_hub(kind):
    return kind("no\nmore", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (of_hub(GatedRepoError), "ask for access"),
        (of_hub(RepositoryNotFoundError), "hf_hub_token if private"),
        (of_hub(RevisionNotFoundError), "model_revision"),
        (ConnectionError("no route\nto host"), "check the network"),
        (RuntimeError("a proxy says no"), "check the network"),
    ],
)
def test_each_failure_has_its_remedy_and_says_what_else_was_tried(error, expected, hub, plan_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.error = error
    with pytest.raises(EnvironmentProblem) as caught:
        ft_resolve_model(plan_of("models/x"), "models/x")
    assert expected in caught.value.remedy
    assert f"no folder or .gguf file {tmp_path / 'models/x'}" in caught.value.why
    assert "\n" not in caught.value.why


def test_a_misspelt_folder_is_suggested(hub, plan_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    hub.error = ConnectionError("no route")
    with pytest.raises(EnvironmentProblem) as caught:
        ft_resolve_model(plan_of("models/tny"), "models/tny")
    assert str(tmp_path / "models" / "tiny") in caught.value.why


def test_offline_is_named(plan_of, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="cannot fetch 'org/absent'") as caught:
        ft_resolve_model(plan_of("org/absent"), "org/absent")
    assert "HF_HUB_OFFLINE" in caught.value.why


def test_a_name_that_nothing_can_mean(hub, plan_of):
    with pytest.raises(ConfigError) as caught:
        ft_resolve_model(plan_of("not a model!"), "not a model!")
    assert caught.value.where == "run.yaml:1"
    assert "pypi:package" in caught.value.remedy


def test_two_revisions_are_an_error(hub, plan_of):
    with pytest.raises(ConfigError, match="two revisions"):
        ft_resolve_model(plan_of("org/model@a", model_revision="b"), "org/model@a")


def bring_code(folder, file="config.json"):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModelForCausalLM": "own.Model"}}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_runs_from_a_pinned_commit_alone(file, hub, plan_of):
    bring_code(save_tiny_model(hub.folder), file)
    with pytest.raises(
        ConfigError, match="trust_remote_code would run whatever code stands at revision 'main'"
    ) as caught:
        ft_resolve_model(plan_of("org/model", trust_remote_code=True), "org/model")
    assert caught.value.where == "run.yaml:1"
    assert file in caught.value.why
    assert f"model_revision: {COMMIT}" in caught.value.remedy
    assert "*.safetensors" not in hub.asked["allow_patterns"], "nothing large was fetched"
    assert "*.py" not in hub.asked["allow_patterns"]
    files = ft_resolve_model(plan_of("org/model", trust_remote_code=True, model_revision=COMMIT), "org/model")
    assert files.own_code
    assert "*.py" in hub.asked["allow_patterns"]


def test_a_model_without_code_needs_no_commit_for_it(hub, plan_of):
    save_tiny_model(hub.folder)
    files = ft_resolve_model(plan_of("org/model", trust_remote_code=True), "org/model")
    assert not files.own_code, "not even a custom_generate folder runs"
    assert "*.py" not in hub.asked["allow_patterns"]


def test_planning_says_so_where_the_cache_has_the_model(plan_of, tmp_path, monkeypatch):
    folder = save_tiny_model(tmp_path / "models--org--model" / "snapshots" / COMMIT)
    (tmp_path / "models--org--model" / "refs").mkdir()
    (tmp_path / "models--org--model" / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    plan = plan_of("org/model", trust_remote_code=True)
    assert not list(ft_check(plan))
    bring_code(folder)
    (problem,) = ft_check(plan)
    assert problem.keys == ("trust_remote_code", "model_revision")
    assert COMMIT in problem.remedy
    assert not list(ft_check(plan_of("org/model")))
    assert not list(ft_check(plan_of("org/model", trust_remote_code=True, model_revision=COMMIT)))
    assert not list(ft_check(plan_of("org/absent", trust_remote_code=True)))
    assert not list(ft_check(plan_of(str(tmp_path), trust_remote_code=True)))
