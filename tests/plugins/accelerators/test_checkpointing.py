"""Every mode of checkpointing computes what a run without it computes, and keeps less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ft.errors import ConfigError, Problems
from ft.planning import make_plan
from ft.testing import tiny_model
from ft.training import Engine, pack
from ft_hookspecs import Estimate, ModelShape, Run
from ft_plugins.accelerators import checkpointing
from ft_plugins.accelerators._layers.recompute import checkpoint_layers, find_layers, keep_on

MODES: dict[str, dict[str, Any]] = {"selective": {"every": 2}, "full": {}, "offloaded": {}}


def features(seed: int, *lengths: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in lengths]
    return [{"input_ids": row, "labels": row} for row in rows]


BATCHES = [pack(features(1, 23, 7, 41)), pack(features(2, 12, 30))]


class Coarse(nn.Linear):
    """A frozen layer that computes with rounded weights, as quantised ones do."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, (self.weight * 16).round() / 16, self.bias)


def model(tuning: str, dropout: float = 0.0) -> nn.Module:
    built: nn.Module = tiny_model(num_hidden_layers=4, attention_dropout=dropout)
    if tuning == "frozen and coarse":
        for module in built.modules():
            if type(module) is nn.Linear and module is not built.lm_head:
                module.__class__ = Coarse
    if tuning != "full":
        torch.manual_seed(3)
        lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
        built = get_peft_model(built, lora)
        for name, parameter in built.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
    return built.train()


def step(built: nn.Module, attention: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Two batches forward, then both backward: each layer is recomputed when another batch has gone by."""
    engine = Engine(built, attention)
    engine.checked = True
    torch.manual_seed(5)
    loss = sum(engine.cross_entropy(batch, 100.0) for batch in BATCHES)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in built.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("tuning", ["full", "lora", "frozen and coarse"])
def test_loss_and_gradients_are_those_without_it(tuning, attention, dropout):
    loss, gradients = step(model(tuning, dropout), attention)
    assert len(gradients) > 4
    for mode, options in MODES.items():
        built = model(tuning, dropout)
        assert checkpoint_layers(built, mode, **options)
        other, found = step(built, attention)
        assert other == pytest.approx(loss, rel=1e-6), mode
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=f"{mode}: {name}")


def test_each_layer_is_computed_with_its_own_batch_again():
    """The boundaries that a layer gets in the backward are those of the batch whose gradient is asked for."""
    built, seen = model("full"), []
    checkpoint_layers(built, "full")

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(kwargs["cu_seq_lens_q"].tolist())

    built.model.layers[0].self_attn.register_forward_pre_hook(note, with_kwargs=True)
    step(built, "packed")
    first, second = (batch["cu_seqlens"].tolist() for batch in BATCHES)
    assert seen[:2] == [first, second]
    assert sorted(seen[2:]) == sorted([first, second])


def kept_bytes(mode: str | None, **options: Any) -> int:
    built, sizes = model("full"), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    if mode:
        checkpoint_layers(built, mode, **options)
    engine = Engine(built)
    engine.checked = True
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine.cross_entropy(BATCHES[0], 1.0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def test_more_checkpointing_keeps_less():
    none, selective, full = kept_bytes(None), kept_bytes("selective", every=2), kept_bytes("full")
    assert full < 0.35 * none
    assert selective == pytest.approx((none + full) / 2, rel=0.15)


def test_evaluation_and_generation_recompute_nothing():
    built = model("lora")
    layers = [built.get_submodule(name) for name in checkpoint_layers(built, "full")]
    calls = []
    for layer in layers:
        layer._gradient_checkpointing_func = lambda function, *inputs: calls.append(1) or function(*inputs)
    built.eval()
    Engine(built).log_probs(BATCHES[0])
    assert not calls
    built.train()
    Engine(built).log_probs(BATCHES[0])
    assert len(calls) == len(layers)


def test_what_switches_it_off_for_a_while_switches_the_same_on_again():
    built = model("lora")
    chosen = checkpoint_layers(built, "selective", every=2)
    keep_on(built, lambda: checkpoint_layers(built, "selective", every=2))
    built.gradient_checkpointing_disable()
    built.gradient_checkpointing_enable(gradient_checkpointing_kwargs=None)
    on = [name for name, layer in find_layers(built).items() if layer.gradient_checkpointing]
    assert on == chosen
    assert len(on) == 2


# ---- the keys


def plan_of(tmp_path, tiny_model_dir, *words: str, excluded: Any = ()):
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    base = (f"model_name_or_path={tiny_model_dir}", f"dataset={data}", f"output_dir={tmp_path / 'out'}")
    return make_plan(None, (*base, *words), excluded=excluded)


@pytest.mark.parametrize(
    ("words", "mode", "every"),
    [
        ((), "auto", 1),
        (("gradient_checkpointing=true",), "full", 1),
        (("--gradient_checkpointing",), "full", 1),
        (("gradient_checkpointing=false",), "none", 1),
        (("disable_gradient_checkpointing=true",), "none", 1),
        (("activation_checkpointing=true",), "full", 1),
        (("gradient_checkpointing=none",), "none", 1),
        (("gradient_checkpointing=selective",), "selective", 2),
        (("gradient_checkpointing=true", 'gradient_checkpointing_kwargs={"every_n_layers": 3}'), "full", 3),
        (("gradient_checkpointing=true", 'gradient_checkpointing_kwargs={"use_reentrant": true}'), "full", 1),
    ],
)
def test_keys_of_every_origin(tmp_path, tiny_model_dir, words, mode, every):
    plan, _ = plan_of(tmp_path, tiny_model_dir, *words)
    options = plan.of(checkpointing.CheckpointingOptions)
    assert (options.mode, options.every) == (mode, every)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gradient_checkpointing=some",), "auto, none, selective, full, offloaded"),
        (("gradient_checkpointing=offloaded",), "they lie in the host's memory already"),
        (("use_unsloth_gc=true",), "they lie in the host's memory already"),
        (("use_unsloth_gc=true", "gradient_checkpointing=none"), "contradicts"),
        (("gradient_checkpointing=selective", 'gradient_checkpointing_kwargs={"offload": true}'), "contradicts"),
        (("gradient_checkpointing=false", 'gradient_checkpointing_kwargs={"every_n_layers": 2}'), "has no effect with"),
        (('gradient_checkpointing_kwargs={"every": 2}',), "gradient_checkpointing_kwargs has no every"),
        (('gradient_checkpointing_kwargs={"every_n_layers": 0}',), "a whole number, at least 1"),
        (
            ("gradient_checkpointing=full", 'fsdp_config={"activation_checkpointing": true}', "fsdp=full_shard"),
            "take activation_checkpointing out of fsdp_config",
        ),
    ],
)
def test_bad_input(tmp_path, tiny_model_dir, words, said):
    with pytest.raises(Problems) as raised:
        plan_of(tmp_path, tiny_model_dir, *words)
    assert said in str(raised.value)


def test_without_the_plugin_the_key_is_transformers_own(tmp_path, tiny_model_dir):
    from ft.training import training_arguments

    with pytest.raises(Problems, match="gradient_checkpointing"):
        plan_of(tmp_path, tiny_model_dir, "gradient_checkpointing=full", excluded=("checkpointing",))
    for excluded, reaches_the_trainer in ((("checkpointing",), True), ((), False)):
        plan, _ = plan_of(tmp_path, tiny_model_dir, "gradient_checkpointing=true", "use_cpu=true", excluded=excluded)
        assert training_arguments(Run(plan)).activation_checkpointing is reaches_the_trainer


def test_a_model_without_layers_to_checkpoint(tmp_path, tiny_model_dir):
    plan, _ = plan_of(tmp_path, tiny_model_dir, "gradient_checkpointing=full")
    with pytest.raises(ConfigError, match="no layers that can be checkpointed"):
        checkpointing.ft_accelerate_model(Run(plan), nn.Linear(2, 2))


# ---- auto


def estimate(batch: int) -> Estimate:
    layer = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (128, 64)}
    tensors = {f"model.layers.{n}.{name}.weight": shape for n in range(8) for name, shape in layer.items()}
    shape = ModelShape(8, 64, 128, 4, 2, 16, 384, tensors)
    return Estimate(shape, tokens=batch * 1000, longest=1000, trained=0, state_bytes=8, measured=True)


@pytest.mark.parametrize(("batch", "mode"), [(1, "none"), (40, "selective"), (60, "full"), (1000, "full")])
def test_auto_is_the_fastest_that_fits(tmp_path, tiny_model_dir, monkeypatch, batch, mode):
    from ft.estimate import DeviceMemory

    plan, _ = plan_of(tmp_path, tiny_model_dir)
    monkeypatch.setattr(checkpointing, "room", lambda plan: DeviceMemory(10**9, "a small device", False))
    found = checkpointing.ft_estimate(plan, estimate(batch))
    assert found.checkpointing == mode
    (note,) = found.notes
    assert note.startswith(f"checkpointing: {mode}: a step without it takes about ")
    assert note.endswith("a small device has 1.00 GB")


def test_auto_before_the_data_is_read_says_so(tmp_path, tiny_model_dir, monkeypatch):
    from ft.estimate import DeviceMemory

    plan, _ = plan_of(tmp_path, tiny_model_dir)
    monkeypatch.setattr(checkpointing, "room", lambda plan: DeviceMemory(10**9, "a small device", False))
    found = checkpointing.ft_estimate(plan, replace(estimate(60), measured=False))
    assert found.notes[0].startswith("checkpointing: full, unless the data turns out shorter: a step without it")


def test_auto_offloads_last_and_on_a_gpu_alone(tmp_path, tiny_model_dir, monkeypatch):
    from ft.estimate import DeviceMemory

    plan, _ = plan_of(tmp_path, tiny_model_dir)
    monkeypatch.setattr(checkpointing, "room", lambda plan: DeviceMemory(10**9, "a small GPU", True))
    assert checkpointing.ft_estimate(plan, estimate(1000)).checkpointing == "offloaded"


def test_the_mode_of_a_run_is_told_with_its_layers(tmp_path, tiny_model_dir):
    plan, _ = plan_of(tmp_path, tiny_model_dir, "gradient_checkpointing=selective")
    run = Run(plan, estimate=replace(estimate(1), checkpointing="selective"))
    change = checkpointing.ft_accelerate_model(run, model("lora"))
    assert change.summary == "selective: activations of every other layer are made again (2 layers)"
