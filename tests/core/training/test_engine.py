"""The packed step is the padded step of transformers: loss and every gradient; and where it cannot be, it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from ft.errors import ConfigError, TrainingError
from ft.testing import tiny_model
from ft.testing.tiny import ARCHITECTURES
from ft.training import Engine, attention, evaluating, pack, pad

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

PACKED = ("llama", "qwen2", "qwen3", "mistral", "mistral-sliding", "gemma", "gemma3", "phi", "phi3")


@pytest.fixture(autouse=True)
def _gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    if "gemma" not in ARCHITECTURES:
        monkeypatch.setitem(ARCHITECTURES, "gemma", ("gemma", {"head_dim": 16}))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], relative: float = 1e-5) -> None:
    """Norm of the difference by norm, for each parameter; a gradient that is zero but for rounding is left out."""
    assert found.keys() == wanted.keys()
    floor = 1e-6 * max(gradient.norm() for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= relative * gradient.norm() + floor, name


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("arch", PACKED)
def test_loss_and_gradients_are_transformers(
    build: Callable[..., nn.Module], features: list[dict[str, Any]], arch: str, tuning: str
) -> None:
    batch = pack(features)
    labels = len(batch["targets"])
    reference = build(arch, tuning)
    expected = reference(**pad(batch), num_items_in_batch=labels).loss
    expected.backward()

    engine = Engine(build(arch, tuning), attention="packed")
    engine.check(batch)
    loss = engine.cross_entropy(batch, labels)
    loss.backward()
    assert engine.packed
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_close(gradients(engine.model), gradients(reference))


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_tied_embeddings_get_both_gradients(
    build: Callable[..., nn.Module], features: list[dict[str, Any]], arch: str
) -> None:
    batch = pack(features)
    reference, model = (build(arch, tie_word_embeddings=True) for _ in range(2))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    reference(**pad(batch), num_items_in_batch=7.0).loss.backward()
    Engine(model, attention="packed").cross_entropy(batch, 7.0).backward()
    assert_close(gradients(model), gradients(reference))


@pytest.mark.parametrize("how", ["lora", "modules_to_save"])
def test_an_adapted_head_is_exact(build: Callable[..., nn.Module], features: list[dict[str, Any]], how: str) -> None:
    def adapted() -> nn.Module:
        if how == "lora":
            return build("llama", "lora", targets=["q_proj", "lm_head"])
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
        torch.manual_seed(0)
        model: nn.Module = get_peft_model(tiny_model("llama"), lora)
        return model.train()

    batch = pack(features)
    reference, model = adapted(), adapted()
    reference(**pad(batch), num_items_in_batch=9.0).loss.backward()
    Engine(model, attention="packed").cross_entropy(batch, 9.0).backward()
    assert any("lm_head" in name for name in gradients(reference))
    assert_close(gradients(model), gradients(reference))


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_log_probs_and_their_gradients(
    build: Callable[..., nn.Module], features: list[dict[str, Any]], attention: Any, tuning: str
) -> None:
    batch = pack(features)
    reference = build("qwen3", tuning)
    padded = pad(batch)
    labels = padded.pop("labels")[:, 1:]
    scores = functional.log_softmax(reference(**padded).logits[:, :-1], -1)[labels != -100]
    expected = scores.gather(1, labels[labels != -100][:, None])[:, 0]
    expected.square().mean().backward()

    engine = Engine(build("qwen3", tuning), attention)
    values = engine.log_probs(batch)
    values.square().mean().backward()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert_close(gradients(engine.model), gradients(reference))


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_weights_multiply_the_loss_of_their_labels(
    build: Callable[..., nn.Module], features: list[dict[str, Any]], attention: Any
) -> None:
    weighted = [{**row, "loss_weights": [0.25] * len(row["input_ids"])} for row in features]
    engine = Engine(build(), attention)
    plain = engine.cross_entropy(pack(features), 10)
    torch.testing.assert_close(engine.cross_entropy(pack(weighted), 10), plain * 0.25)


def test_gradient_checkpointing_changes_nothing(
    build: Callable[..., nn.Module], features: list[dict[str, Any]]
) -> None:
    found = []
    for checkpointing in (False, True):
        model = build("mistral-sliding")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        Engine(model, attention="packed").cross_entropy(pack(features), 5).backward()
        found.append(gradients(model))
    assert_close(*found)


# ---- falling back


@pytest.mark.parametrize(
    ("arch", "config", "reason"),
    [
        ("gemma2", {}, "final_logit_softcapping is 30.0"),
        ("cohere", {}, "logit_scale"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ("mixtral", {"output_router_logits": True, "num_local_experts": 2}, "output_router_logits"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "a layer is of type conv"),
    ],
)
def test_a_model_that_cannot_be_packed_is_padded(
    monkeypatch: pytest.MonkeyPatch, features: list[dict[str, Any]], arch: str, config: dict[str, Any], reason: str
) -> None:
    if arch not in ARCHITECTURES:
        monkeypatch.setitem(ARCHITECTURES, arch, (arch, {}))
    model, decisions = tiny_model(arch, **config).train(), []
    engine = Engine(model, decide=decisions.append)
    batch = pack(features)
    engine.check(batch)
    assert not engine.packed
    assert reason in engine.reason
    assert decisions == [f"batches are padded: {engine.reason}"]
    expected = model(**pad(batch), num_items_in_batch=8.0).loss
    torch.testing.assert_close(engine.cross_entropy(batch, 8.0), expected)
    with pytest.raises(ConfigError, match="cannot be trained packed"):
        Engine(tiny_model(arch, **config), attention="packed")


def test_eager_attention_stays_when_it_was_asked_for() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    assert Engine(model).reason == "eager attention was asked for"


def leaky(*args: Any, cu_seq_lens_q: Any, **kwargs: Any) -> Any:
    """Attention in which a sequence sees the ones before it in the row."""
    whole = cu_seq_lens_q[[0, -1]]
    return attention.packed_attention(*args, **{**kwargs, "cu_seq_lens_q": whole, "cu_seq_lens_k": whole})


@pytest.mark.parametrize("sequences", [1, 4])
def test_the_self_check_finds_a_broken_attention(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., nn.Module], features: list[dict[str, Any]], sequences: int
) -> None:
    model, decisions = build(), []
    engine, demanded = Engine(model, decide=decisions.append), Engine(build(), attention="packed")
    broken = {**attention.AttentionInterface._global_mapping}
    broken[attention.NAME] = lambda *args, **kwargs: (
        leaky(*args, **kwargs) if "cu_seq_lens_q" in kwargs else attention.packed_attention(*args, **kwargs)
    )
    monkeypatch.setattr(attention.AttentionInterface, "_global_mapping", broken)
    batch = pack(features[:sequences])
    engine.check(batch)
    assert not engine.packed
    assert decisions == [f"batches are padded: {engine.reason}"]
    assert "differ" in engine.reason
    torch.testing.assert_close(engine.cross_entropy(batch, 4), model(**pad(batch), num_items_in_batch=4).loss)
    with pytest.raises(TrainingError, match="not exact"):
        demanded.check(batch)


def test_an_attention_that_refuses_falls_back(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., nn.Module], features: list[dict[str, Any]]
) -> None:
    def refusing(*_: Any, **kwargs: Any) -> Any:
        if "cu_seq_lens_q" in kwargs:
            raise NotImplementedError
        return attention.packed_attention(*_, **kwargs)

    engine = Engine(build())
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, refusing)
    engine.check(pack(features))
    assert not engine.packed


def test_the_self_check_leaves_no_trace(build: Callable[..., nn.Module], features: list[dict[str, Any]]) -> None:
    model = build("llama", attention_dropout=0.3)
    model.lm_head.eval()  # a part that someone keeps in evaluation mode
    state = torch.get_rng_state()
    engine = Engine(model)
    engine.check(pack(features))
    assert engine.packed
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.lm_head.training
    assert not gradients(model)


def evaluate_and_fail(model: nn.Module) -> None:
    with evaluating(model):
        assert not model.training
        raise RuntimeError("inside")


def test_evaluating_restores_after_an_error(build: Callable[..., nn.Module]) -> None:
    model = build()
    with pytest.raises(RuntimeError, match="inside"):
        evaluate_and_fail(model)
    assert model.training
