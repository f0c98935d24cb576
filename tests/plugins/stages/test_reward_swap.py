"""A second adapter takes the policy's place for a score, and leaves no trace."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ft.errors import DataError
from ft.testing import tiny_model
from ft_plugins.stages._rewards.swap import SecondAdapter, wrappers

IDS = torch.randint(4, 384, (1, 12), generator=torch.Generator().manual_seed(0))


def adapted(seed: int, model=None, **settings):
    """A tiny Llama with an adapter whose B is not zero."""
    config = {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5, **settings}
    model = get_peft_model(model or tiny_model(), LoraConfig(task_type="CAUSAL_LM", **config))
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.normal_(std=0.1, generator=draw)
    return model.train()


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


REWARDS = [
    pytest.param({}, id="the same layers"),
    pytest.param({"r": 2, "target_modules": ["v_proj", "down_proj"]}, id="another rank and other layers"),
    pytest.param({"modules_to_save": ["norm"], "use_dora": True}, id="DoRA and a whole module"),
]


@pytest.mark.parametrize(
    "policy_settings", [{}, {"modules_to_save": ["lm_head"]}], ids=["policy", "policy with a head"]
)
@pytest.mark.parametrize("settings", REWARDS)
def test_it_scores_as_the_other_model_and_the_policy_is_untouched(tmp_path, settings, policy_settings):
    other = adapted(2, **settings)
    other.save_pretrained(tmp_path)
    expected = logits(PeftModel.from_pretrained(tiny_model(), tmp_path))
    policy = adapted(1, **policy_settings)
    policy.get_base_model().v_head = torch.nn.Linear(2, 1)
    before = logits(policy)
    policy.train()
    state = copy.deepcopy(policy.state_dict())
    trains = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    training = [name for name, module in policy.named_modules() if module.training]
    config = copy.deepcopy(policy.peft_config)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's about a second adapter
        second = SecondAdapter(policy, tmp_path)
    for _ in range(2):
        with second.in_place() as model:
            assert torch.equal(model(input_ids=IDS).logits, expected)
            assert not model.training
    assert trains == [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert training == [name for name, module in policy.named_modules() if module.training]
    assert policy.peft_config == config == policy.get_base_model().peft_config
    assert policy.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in policy.state_dict().items())
    policy.save_pretrained(tmp_path / "saved")
    assert not [path for path in (tmp_path / "saved").iterdir() if path.is_dir()], "the policy alone is saved"
    assert torch.equal(logits(policy), before)
    assert not torch.allclose(before, expected)


def test_the_policy_is_back_after_an_error(tmp_path):
    adapted(2).save_pretrained(tmp_path)
    policy = adapted(1)
    own = wrappers(policy.get_base_model())
    second = SecondAdapter(policy, tmp_path)
    with pytest.raises(KeyError), second.in_place():
        raise KeyError
    assert wrappers(policy.get_base_model()) == own


def test_an_adapter_for_another_model_is_refused(tmp_path):
    adapted(2, tiny_model(num_hidden_layers=3)).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="do not fit"):
        SecondAdapter(adapted(1), tmp_path)
