"""Norms and logits in float32."""

from __future__ import annotations

import pytest
import torch

from ft.planning import make_plan
from ft.testing import tiny_model
from ft.training import Engine, pack
from ft_hookspecs import Run
from ft_plugins.accelerators import upcast

TOKENS = torch.arange(10, 60)[None]
BATCH = pack([{"input_ids": TOKENS[0].tolist(), "labels": TOKENS[0].tolist()}])


@pytest.fixture
def run(tmp_path, tiny_model_dir) -> Run:
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    words = (f"model_name_or_path={tiny_model_dir}", f"dataset={data}", f"output_dir={tmp_path / 'out'}")
    return Run(make_plan(None, (*words, "upcast_layernorm=true", "upcast_lmhead_output=true"))[0])


@pytest.mark.parametrize("arch", ["llama", "qwen3", "phi"])
def test_norms_compute_in_float32(arch):
    model = tiny_model(arch).to(torch.bfloat16)
    reference = tiny_model(arch).to(torch.bfloat16).float()
    seen = []
    names = upcast.upcast_norms(model)
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    norms = {name for name, module in model.named_modules() if "Norm" in type(module).__name__}
    assert set(names) == norms
    assert {weight.dtype for name in names for weight in model.get_submodule(name).parameters()} == {torch.float32}
    logits = model(TOKENS).logits
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    torch.testing.assert_close(logits.float(), reference(TOKENS).logits, rtol=0.1, atol=0.2)


def test_a_norm_is_the_one_of_float32_rounded_once():
    norm = tiny_model().to(torch.bfloat16).model.norm
    norm.weight.data.uniform_(0.5, 1.5)
    hidden = torch.randn(3, 64, dtype=torch.bfloat16)
    exact = torch.nn.functional.rms_norm(hidden.double(), (64,), norm.weight.double(), norm.variance_epsilon)
    upcast.upcast_norms(norm)
    assert torch.equal(norm(hidden), exact.to(torch.bfloat16))


def test_logits_are_float32_and_the_engines_loss_is_the_same():
    model, plain = (tiny_model().to(torch.bfloat16).eval() for _ in range(2))
    assert plain(TOKENS).logits.dtype == torch.bfloat16
    assert upcast.upcast_logits(model) == "logits are float32 (the loss always computes in float32)"
    assert model(TOKENS).logits.dtype == torch.float32
    engines = [Engine(each) for each in (model, plain)]
    torch.testing.assert_close(*(engine.cross_entropy(BATCH, 1.0) for engine in engines))


def test_a_float32_model_has_nothing_to_upcast_and_it_is_said(run):
    change = upcast.ft_accelerate_model(run, tiny_model())
    assert change.summary == "norms are float32 already; logits are float32 already"


def test_what_was_upcast_is_said(run):
    change = upcast.ft_accelerate_model(run, tiny_model().to(torch.bfloat16))
    assert change.summary.startswith("5 norms compute in float32; logits are float32")
