"""LoRA layers as one function: the gradients by autograd's own check, PEFT's own path wherever it is not plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ft.errors import ConfigError
from ft.testing import tiny_model
from ft_plugins.accelerators._layers.lora import FusedLora, LoraProduct, can_fuse
from ft_plugins.accelerators.fused_lora import ft_accelerate_model

IDS = torch.arange(5, 35).view(2, 15)


def adapted(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(tiny_model().to(dtype), LoraConfig(**settings))
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model


@pytest.mark.parametrize("bias", [True, False])
def test_its_backward_is_the_derivative(bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 3, 5), "W": (4, 5), "b": (4,), "A": (2, 5), "B": (4, 2)}
    of = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    trained = [of[name].requires_grad_() for name in ("x", "A", "B")]
    assert torch.autograd.gradcheck(
        lambda x, A, B: LoraProduct.apply(x, of["W"], of["b"] if bias else None, A, B, 0.7), trained
    )


def test_in_bf16_it_is_as_near_to_the_truth_as_peft() -> None:
    def gradients(model: Any) -> torch.Tensor:
        model(input_ids=IDS, labels=IDS).loss.backward()
        return torch.cat([each.grad.flatten().float() for each in model.parameters() if each.grad is not None])

    exact = adapted()
    for parameter in exact.base_model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16().float()
    truth = gradients(exact)
    theirs, ours = (
        float((gradients(model) - truth).norm()) for model in (adapted(torch.bfloat16), fused(torch.bfloat16))
    )
    assert ours < 1.3 * theirs


def fused(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    model = adapted(dtype, **config)
    change = ft_accelerate_model(model)
    assert len(change.modules) == 14
    return model


def test_the_factors_that_train_keep_their_format() -> None:
    model = fused(torch.bfloat16)
    model(input_ids=IDS, labels=IDS).loss.backward()
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    assert {each.dtype for each in grads} == {torch.float32}


def test_switched_off_and_merged_it_is_pefts() -> None:
    ours, theirs = fused(), adapted()
    with torch.no_grad(), ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits)
    with torch.no_grad():
        on = ours(IDS).logits
        torch.testing.assert_close(on, theirs(IDS).logits)
        torch.testing.assert_close(ours.merge_and_unload()(IDS).logits, on)


def test_under_autocast_it_is_pefts() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused()(IDS).logits, adapted()(IDS).logits)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}])
def test_what_is_not_plain_is_left(config: dict[str, Any]) -> None:
    model = adapted(**config)
    assert not any(map(can_fuse, model.modules()))
    with pytest.raises(ConfigError, match="finds no layer") as caught:
        ft_accelerate_model(model)
    assert "14 LoRA layers" in caught.value.why
    assert not any(isinstance(module, FusedLora) for module in model.modules())
