"""What adapters say of a run's memory while planning, beside the model that is then made."""

from __future__ import annotations

import pytest

from ft.estimate import estimate_memory
from ft.testing import changed_model, save_tiny_model

CASES = {
    "lora": {"finetuning_type": "lora", "lora_rank": 4},
    "dora": {"finetuning_type": "lora", "lora_rank": 4, "use_dora": True, "lora_target": "q_proj,down_proj"},
    "lora and whole modules": {"finetuning_type": "lora", "additional_target": "norm,lm_head"},
    "oft": {"finetuning_type": "oft", "oft_block_size": 16},
    "oft by blocks": {"finetuning_type": "oft", "oft_rank": 4, "oft_target": "q_proj,down_proj"},
    "first layer": {"finetuning_type": "freeze", "freeze_trainable_layers": -1},
    "parts": {"finetuning_type": "freeze", "freeze_trainable_modules": "mlp,q_proj", "freeze_extra_modules": "norm"},
    "llama pro": {"finetuning_type": "freeze", "freeze_trainable_layers": 2, "use_llama_pro": True},
    "full": {"finetuning_type": "full"},
}
TOKENS = {"lora": {"add_tokens": "<a>"}, "freeze": {"add_special_tokens": "<a>"}, "oft": {"add_tokens": "<a>"}}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("four") / "base", num_hidden_layers=4)


def compared(keys, folder):
    run, plugins = changed_model(keys, folder)
    numbers = [each.numel() for each in run.model.parameters() if each.requires_grad]
    return estimate_memory(run.plan, plugins), sum(numbers)


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_as_many_parameters_train_as_were_planned(keys, four, tmp_path):
    estimate, trained = compared({"model_name_or_path": four, **keys}, tmp_path)
    assert estimate.trained == trained


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "keys"), TOKENS.items(), ids=TOKENS)
def test_new_tokens_let_embeddings_and_head_train(name, keys, tied, tmp_path):
    """All but the rows of the new tokens, which no file has yet."""
    if tied and name == "oft":
        return
    base = save_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    estimate, trained = compared({"model_name_or_path": base, "finetuning_type": name, **keys}, tmp_path)
    assert estimate.trained == trained - (1 if tied else 2) * 64
    assert estimate.trains_head


def test_layers_above_the_lowest_that_trains_keep_activations(four, tmp_path):
    pro = {"finetuning_type": "freeze", "freeze_trainable_layers": 2, "use_llama_pro": True}
    found = [
        compared({"model_name_or_path": four, **keys}, tmp_path)[0].active
        for keys in (pro, CASES["first layer"], {"finetuning_type": "freeze", "freeze_trainable_layers": 1})
    ]
    assert found == [3, 4, 1]


def test_copies_of_modules_are_no_part_of_the_rank(four, tmp_path):
    from ft.estimate.terms import layer

    plain, more = (
        compared({"model_name_or_path": four, **CASES["lora"], **keys}, tmp_path)[0]
        for keys in ({}, {"additional_target": "embed_tokens,lm_head"})
    )
    assert layer(more) == layer(plain)
    assert more.trained > plain.trained
