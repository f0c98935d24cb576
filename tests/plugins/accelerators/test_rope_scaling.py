"""Scaled positions: the factor, what is refused, and that what is saved has them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from ft.errors import ConfigError, Problems
from ft.lifecycle import run as run_plan
from ft.planning import make_plan
from ft.testing import save_tiny_model, tiny_tokenizer
from ft_hookspecs import ModelFiles, Run
from ft_plugins.accelerators import rope_scaling


@pytest.fixture
def run_of(tmp_path, tiny_model_dir):
    """A run whose model's files are found: 512 positions."""
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "Who are you?", "output": "A model."}]', encoding="utf-8")

    def make(*words: str, model=tiny_model_dir) -> Run:
        base = (f"model_name_or_path={model}", f"dataset={data}", f"output_dir={tmp_path / 'out'}", "use_cpu=true")
        plan, _ = make_plan(None, (*base, *words))
        return Run(plan, model_files=ModelFiles(str(model)), tokenizer=tiny_tokenizer())

    return make


@pytest.mark.parametrize(
    ("kind", "cutoff", "factor", "positions"),
    [("linear", 513, 2, 1024), ("linear", 2048, 4, 2048), ("dynamic", 1024, 2, 512), ("yarn", 1100, 3, 1536),
     ("llama3", 1024, 2, 1024)],
)  # fmt: skip
def test_the_factor_covers_cutoff_len(run_of, kind, cutoff, factor, positions):
    options = rope_scaling.ft_model_load_options(run_of(f"rope_scaling={kind}", f"cutoff_len={cutoff}"))
    scaled = options["rope_parameters"]
    assert (scaled["rope_type"], scaled["factor"]) == (kind, factor)
    assert scaled["rope_theta"] == 10_000
    assert options["max_position_embeddings"] == positions
    assert scaled.get("original_max_position_embeddings") == (512 if kind in ("yarn", "llama3") else None)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_it_acts_and_is_transformers_own(run_of, tiny_model_dir, kind):
    options = rope_scaling.ft_model_load_options(run_of(f"rope_scaling={kind}", "cutoff_len=1024"))
    plain, scaled = (AutoModelForCausalLM.from_pretrained(tiny_model_dir, **each).eval() for each in ({}, options))
    tokens = torch.randint(4, 384, (1, 800), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (plain(tokens).logits - scaled(tokens).logits).abs()
    assert difference[:, -1].max() > 1e-3
    assert scaled.config.rope_parameters["rope_type"] == kind


def test_within_the_models_length_nothing_is_scaled_and_it_is_said(run_of):
    run = run_of("rope_scaling=linear", "cutoff_len=512")
    assert rope_scaling.ft_model_load_options(run) == {}
    run.model = AutoModelForCausalLM.from_pretrained(run.model_files.path)
    change = rope_scaling.ft_accelerate_model(run, run.model)
    assert change.summary == "positions stay as they are: cutoff_len is within the model's 512"


def test_what_is_saved_is_scaled(tmp_path, tiny_model_dir):
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "Who are you?", "output": "A model."}]', encoding="utf-8")
    words = (
        f"model_name_or_path={tiny_model_dir}", f"dataset={data}", f"output_dir={tmp_path / 'out'}", "use_cpu=true",
        "rope_scaling=yarn", "cutoff_len=1024", "finetuning_type=full", "max_steps=1",
    )  # fmt: skip
    run = run_plan(*make_plan(None, words))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert saved.config.rope_parameters["rope_type"] == "yarn"
    assert saved.config.max_position_embeddings == 1024
    tokens = torch.randint(4, 384, (1, 700), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(saved(tokens).logits, run.model.eval()(tokens).logits, rtol=1e-4, atol=1e-4)
    assert run.tokenizer.model_max_length >= 1024


def test_a_model_that_is_scaled_already(run_of, tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    folder = save_tiny_model(tmp_path / "scaled", rope_parameters=rope)
    run = run_of("rope_scaling=yarn", "cutoff_len=1024", model=folder)
    with pytest.raises(ConfigError, match="cannot scale") as raised:
        rope_scaling.ft_model_load_options(run)
    assert raised.value.why == "they are scaled already: linear to 512 positions"


def test_a_model_with_rotations_for_each_kind_of_layer(run_of, tmp_path):
    folder = save_tiny_model(tmp_path / "gemma3", "gemma3")
    with pytest.raises(ConfigError, match="cannot scale"):
        rope_scaling.ft_model_load_options(run_of("rope_scaling=yarn", "cutoff_len=1024", model=folder))


def test_an_unknown_kind(run_of):
    with pytest.raises(Problems) as raised:
        run_of("rope_scaling=ntk")
    assert "linear, dynamic, yarn, llama3" in str(raised.value)
