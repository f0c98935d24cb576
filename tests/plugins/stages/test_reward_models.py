"""One reward model, asked in every way that there is, always says the same; and who must not be asked is refused."""

from __future__ import annotations

import json

import pytest
import torch

from ft import lifecycle
from ft.errors import ConfigError, DataError, PluginError
from ft.planning import make_plan
from ft.testing import save_tiny_model
from ft_hookspecs import Run
from ft_plugins.stages._rewards import reward_for
from ft_plugins.stages._rewards.models import check_base

STAGE = """
from ft_plugins.stages._rewards.checks import reward_problems
from ft_plugins.stages._rewards.options import RewardOptions

@hookimpl
def ft_options():
    return RewardOptions

@hookimpl
def ft_check(plan):
    return reward_problems(plan)

@hookimpl
def ft_build_trainer(run):
    class Nothing:
        def train(self): pass
    return Nothing()
"""
ROWS = [
    {
        "prompt": f"What colour is stone {name}?",
        "chosen": f"It is {colour}.",
        "rejected": f"I cannot say {name}{colour}.",
    }
    for name, colour in zip("abcd", ("red", "blue", "green", "grey"), strict=True)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """``trained(tuning)``: the folder of a reward model, and what its own run predicted of the rows."""
    made = {}

    def train(tuning, **more):
        name = "-".join([tuning, *more])
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
            keys = {
                "stage": "rm",
                "finetuning_type": tuning,
                "model_name_or_path": base,
                "dataset": folder / "rows.jsonl",
                "eval_dataset": folder / "rows.jsonl",
                "output_dir": folder / "out",
                "cache_dir": folder / "cache",
                "max_steps": 3,
                "learning_rate": 1e-3,
                "dtype": "float32" if tuning == "lora" else "auto",
                "do_train": "true",
                "do_predict": "true",
                "use_cpu": "true",
                **more,
            }
            lifecycle.run(*make_plan(None, [f"{key}={value}" for key, value in keys.items()]))
            lines = (folder / "out" / "generated_predictions.jsonl").read_text().splitlines()
            made[name] = folder / "out", [json.loads(line) for line in lines]
        return made[name]

    return train


@pytest.fixture
def policy(fake_plugin, base, tmp_path):
    """A run with a policy whose trainer is about to be built."""
    fake_plugin("needy", STAGE, kind="stages")

    def make(plugins=(), **keys) -> Run:
        keys = {
            "stage": "needy",
            "finetuning_type": "lora",
            "model_name_or_path": base,
            "dataset": "x",
            "output_dir": tmp_path / "ppo",
            "dtype": "auto" if keys.get("finetuning_type") == "full" else "float32",
            **keys,
        }
        run = Run(*make_plan(None, [f"{key}={value}" for key, value in keys.items()], plugins)[:1])
        manager = make_plan(None, [f"{key}={value}" for key, value in keys.items()], plugins)[1]
        for phase in (lifecycle.find_model, lifecycle.load_model, lifecycle.change_model, lifecycle.build_trainer):
            phase(run, manager)
        return run

    return make


def asked(run: Run) -> tuple[list[str], list[str]]:
    """The prompts as rollouts have them, each twice, and both answers of each pair."""
    from ft_hookspecs import Message

    prompts = [run.template.render([Message("user", row["prompt"])], add_generation_prompt=True) for row in ROWS]
    answers = [row[side] for row in ROWS for side in ("chosen", "rejected")]
    return [prompt for prompt in prompts for _ in range(2)], answers


def expected(predicted) -> list[float]:
    return [row[side] for row in predicted for side in ("chosen", "rejected")]


@pytest.mark.parametrize("merged", [False, True], ids=["new policy", "policy on a merged adapter"])
def test_a_second_adapter_scores_as_its_own_run_did(trained, policy, merged):
    folder, predicted = trained("lora")
    keys = {"adapter_name_or_path": folder} if merged else {}
    run = policy(reward_model=folder, **keys)  # the policy may even go on from the reward model's own adapter
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    state = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    rewards = reward_for(run)
    for _ in range(2):
        assert rewards(*asked(run)).tolist() == pytest.approx(expected(predicted), rel=1e-4, abs=1e-5)
    assert run.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in run.model.state_dict().items())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_another_model_scores_as_its_own_run_did(trained, policy, base, tuning):
    folder, predicted = trained(tuning)
    keys = {"reward_model": folder} if tuning == "full" else {"reward_model": base, "reward_model_adapters": folder}
    run = policy(reward_model_type="full", finetuning_type="full", **keys)
    assert reward_for(run)(*asked(run)).tolist() == pytest.approx(expected(predicted), rel=1e-4, abs=1e-5)


def test_a_server_is_sent_whole_texts_and_plugins_add_to_it(policy, fake_plugin, monkeypatch):
    sent = []

    def scores(self, texts):
        sent.extend(texts)
        return [1.0] * len(texts)

    monkeypatch.setattr("ft_plugins.stages._rewards.api.RewardServer.__call__", scores)
    fake_plugin("lengths", "@hookimpl\ndef ft_reward(answers):\n    return [len(answer) / 100 for answer in answers]\n")
    fake_plugin("halves", "@hookimpl\ndef ft_reward(answers):\n    return (0.5 for _ in answers)\n")
    run = policy(("lengths", "halves"), reward_model="http://here/score", reward_model_type="api")
    prompts, answers = asked(run)
    assert reward_for(run)(prompts, answers).tolist() == pytest.approx([1.5 + len(each) / 100 for each in answers])
    assert sent == [f"{prompt}{answer}<|im_end|>" for prompt, answer in zip(prompts, answers, strict=True)]
    assert run.decisions[-1].endswith("reward_model (api) + plugin lengths + plugin halves")


@pytest.mark.parametrize(
    ("result", "said"),
    [("None", "returned None"), ("[float('nan')] * 8", "returned"), ("[1.0]", "returned 1 rewards for 8 answers")],
)
def test_a_plugin_that_rewards_wrongly_is_blamed(policy, fake_plugin, result, said):
    fake_plugin("wrong", f"@hookimpl\ndef ft_reward(answers):\n    return {result}\n")
    run = policy(("wrong",))
    with pytest.raises(PluginError, match=said) as caught:
        reward_for(run)(*asked(run))
    assert "'wrong'" in str(caught.value)
    assert "ft-wrong" in str(caught.value)


def test_an_adapter_of_another_base_is_refused(trained, policy):
    folder, _ = trained("lora")
    run = policy(reward_model="org/reward", adapter_name_or_path=folder, create_new_adapter="true")
    with pytest.raises(ConfigError, match="trained on another base") as caught:
        check_base(run, folder)  # where the hub's cache has it
    assert str(folder) in caught.value.why
    assert "reward_model_type: full" in caught.value.remedy


def test_a_broken_value_head_is_refused(trained, policy, tmp_path):
    import shutil

    folder, _ = trained("lora")
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "value_head.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="value head cannot be loaded"):
        reward_for(policy(reward_model=tmp_path / "broken"))
