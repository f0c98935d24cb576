"""`ft expand`: more blocks, the same logits, and a run that trains just the new ones."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from ft.cli import app
from ft.errors import ConfigError, DataError
from ft.testing import ARCHITECTURES, changed_model, save_tiny_model, tiny_model
from ft_plugins.commands._llama_pro import expand_model


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 69).view(2, 32)).logits


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logits_stay_as_they_were(arch, tmp_path):
    folder = save_tiny_model(tmp_path / "base", arch, num_hidden_layers=4)
    assert expand_model(folder, tmp_path / "out", 2) == 6
    torch.testing.assert_close(logits(tmp_path / "out"), logits(folder), rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert len(config.get("layer_types") or range(6)) == 6


def test_a_sharded_model_stays_sharded(tmp_path):
    tiny_model(num_hidden_layers=4).save_pretrained(tmp_path / "base", max_shard_size="200KB")
    expand_model(tmp_path / "base", tmp_path / "out", 4)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] == sum(
        parameter.nbytes for parameter in AutoModelForCausalLM.from_pretrained(tmp_path / "out").parameters()
    )
    torch.testing.assert_close(logits(tmp_path / "out"), logits(tmp_path / "base"), rtol=0, atol=1e-6)


def test_a_run_trains_the_new_blocks_alone(tmp_path):
    folder = save_tiny_model(tmp_path / "base", num_hidden_layers=4)
    result = CliRunner().invoke(app, ["expand", str(folder), str(tmp_path / "expanded"), "--num-expand", "2"])
    assert result.exit_code == 0, result.output
    assert "use_llama_pro: true and freeze_trainable_layers: 2" in result.output
    keys = {"finetuning_type": "freeze", "use_llama_pro": True, "freeze_trainable_layers": 2}
    run, _ = changed_model({**keys, "model_name_or_path": tmp_path / "expanded"}, tmp_path)
    (change,) = [done for info, done in run.changes if info.kind == "adapters"]
    assert change.modules == {"model.layers.2", "model.layers.5"}
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "expanded").model.layers
    assert not before[2].self_attn.o_proj.weight.any()
    assert torch.equal(before[5].mlp.up_proj.weight, before[4].mlp.up_proj.weight)
    ids = torch.arange(5, 37).view(1, 32)
    run.model(input_ids=ids, labels=ids).loss.backward()
    learning = {name for name, each in run.model.named_parameters() if each.grad is not None and each.grad.any()}
    assert {
        f"model.layers.{new}.{end}.weight" for new in (2, 5) for end in ("self_attn.o_proj", "mlp.down_proj")
    } <= learning


def test_what_cannot_be_expanded(tmp_path):
    folder = save_tiny_model(tmp_path / "base")
    with pytest.raises(ConfigError, match="equal groups") as error:
        expand_model(folder, tmp_path / "out", 3)
    assert error.value.remedy == "it can be 1, 2"
    with pytest.raises(ConfigError, match="is not empty"):
        expand_model(folder, folder, 2)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gpt_neox"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="gpt_neox"):
        expand_model(folder, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()
