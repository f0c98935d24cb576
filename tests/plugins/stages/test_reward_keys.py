"""What the keys of a reward cannot be, and what plugins that reward must return."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from ft.errors import PluginError, Problems
from ft.planning import make_plan
from ft_hookspecs import PluginInfo
from ft_plugins.stages._rewards import Reward, _counted

STAGE = """
from ft_plugins.stages._rewards.checks import reward_problems
from ft_plugins.stages._rewards.options import RewardOptions

@hookimpl
def ft_options():
    return RewardOptions

@hookimpl
def ft_check(plan):
    return reward_problems(plan)
"""
REWARDS = "@hookimpl\ndef ft_reward(answers):\n    return [float(len(answer)) for answer in answers]\n"


@pytest.fixture
def saved(tmp_path):
    """``saved("adapter_config.json", …)`` is a folder with these files."""

    def make(*names):
        folder = tmp_path / "outputs" / "reward"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        return folder

    return make


@pytest.fixture
def plan(fake_plugin, tiny_model_dir, tmp_path):
    fake_plugin("needy", STAGE, kind="stages")

    def make(plugins=(), environ=None, **keys):
        keys = {"finetuning_type": "lora", **keys}
        words = ["stage=needy", f"model_name_or_path={tiny_model_dir}", "dataset=x", f"output_dir={tmp_path / 'out'}"]
        return make_plan(None, [*words, *(f"{k}={v}" for k, v in keys.items())], plugins, environ=environ or {})[0]

    return make


def said(plan, **keys) -> str:
    with pytest.raises(Problems) as caught:
        plan(**keys)
    return str(caught.value)


def test_a_reward_must_come_from_somewhere(plan, fake_plugin):
    assert "nothing gives a reward" in said(plan)
    fake_plugin("lengths", REWARDS)
    assert plan(("lengths",)).get("reward_model") is None


def test_what_a_reward_model_must_hold(plan, saved):
    folder = saved("adapter_config.json")
    for kind in ("lora", "full"):
        text = said(plan, reward_model=folder, reward_model_type=kind)
        assert "value_head.safetensors is missing" in text
    (folder / "value_head.safetensors").touch()
    plan(reward_model=folder)
    assert "holds an adapter" in said(plan, reward_model=folder, reward_model_type="full")
    (folder / "adapter_config.json").unlink()
    assert "adapter_config.json is missing" in said(plan, reward_model=folder)
    plan(reward_model=folder, reward_model_type="full")
    assert "does not exist" in said(plan, reward_model="./nowhere")


def test_the_head_of_a_full_model_lies_with_its_last_adapter(plan, saved, tiny_model_dir):
    folder = saved("adapter_config.json")
    keys = {"reward_model": tiny_model_dir, "reward_model_type": "full", "reward_model_adapters": f"a/b/c,{folder}"}
    text = said(plan, **keys)
    assert "reward_model_adapters: the folder" in text
    (folder / "value_head.safetensors").touch()
    plan(**keys)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"reward_model": "http://here/score", "reward_model_type": "full"}, "reward_model is a URL"),
        ({"reward_model": "http://here/score"}, "set reward_model_type: api"),
        ({"reward_model": "ftp://here", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "outputs/rm", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "http://", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "http://[::1/score", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "http://here:port/", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "http://here:99999/", "reward_model_type": "api"}, "not an http or https URL"),
        ({"reward_model": "http://here/a score", "reward_model_type": "api"}, "special characters as %20"),
        ({"reward_model": "http://here/größe", "reward_model_type": "api"}, "not an http or https URL"),
        (
            {"reward_model": "http://here", "reward_model_type": "api", "reward_model_token": "me:pw\n"},
            "cannot be sent",
        ),
        ({"reward_model": "https://me:pw@here/", "reward_model_type": "api"}, "holds a user or password"),
        ({"reward_model": "org/rm", "finetuning_type": "full"}, "reward_model_type: lora with finetuning_type: full"),
        ({"reward_model": "org/rm", "fsdp": "full_shard"}, "reward_model_type: lora cannot be combined with fsdp"),
        ({"reward_model": "org/rm", "reward_model_adapters": "x"}, "no effect with reward_model_type: lora"),
        ({"reward_model": "org/rm", "reward_model_quantization_bit": 4}, "no effect with reward_model_type: lora"),
        ({"reward_model": "org/rm", "reward_model_quantization_bit": 3}, "bnb does not support"),
        ({"reward_model": "org/rm", "reward_model_token": "x"}, "only `api` uses it"),
        ({"reward_model_type": "api"}, "reward_model_type without reward_model"),
    ],
)
def test_what_cannot_be(plan, keys, expected):
    text = said(plan, **keys)
    assert expected in text
    assert "me:pw" not in text


def test_a_reward_adapter_of_another_base_is_refused(plan, saved, tmp_path, monkeypatch):
    folder = saved("value_head.safetensors", "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    keys = {"reward_model": folder, "adapter_name_or_path": folder}
    plan(**keys)  # it goes on training: the base is the same
    assert "trained on another base" in said(plan, **keys, create_new_adapter="true")
    monkeypatch.chdir(tmp_path)
    record = {"changes": [{"summary": "…"}, {"merged_adapters": ["outputs/reward"]}]}
    (folder / "run.json").write_text(json.dumps(record))
    plan(**keys, create_new_adapter="true")  # the same folder, written in another way
    assert "merged into the base are no adapters for the policy" in said(plan, **keys)


def test_a_token_of_the_environment_is_taken_and_kept_secret(plan):
    made = plan(
        reward_model="http://here/score", reward_model_type="api", environ={"FT_REWARD_MODEL_TOKEN": "geheim-123"}
    )
    assert made.get("reward_model_token") == "geheim-123"
    assert "reward_model_token" in made.secrets


def test_rewards_add_up():
    reward = Reward((lambda prompts, answers: [1.0, 2.0], lambda prompts, answers: (0.5, -0.5)))
    total = reward(["p", "q"], ["a", "b"])
    assert torch.equal(total, torch.tensor([1.5, 1.5]))
    assert total.dtype == torch.float32


def test_a_plugin_that_leaves_an_answer_out_is_blamed():
    info = PluginInfo("plugins", "lazy", "lazy.py", "ft-lazy", "1.0")
    scores = _counted(info, lambda prompts, answers: [1.0])
    with pytest.raises(PluginError, match=r"'lazy'.*returned 1 rewards for 2 answers"):
        scores(["p", "q"], ["a", "b"])
    assert SimpleNamespace(scores=scores(["p"], ["a"])).scores == [1.0]
