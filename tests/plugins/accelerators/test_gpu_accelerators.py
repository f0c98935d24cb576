"""What the accelerators for GPUs do before their kernels run: a GPU shows the rest (benchmarks/gpu)."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ft.errors import ConfigError
from ft.testing import tiny_model
from ft.training import Engine
from ft_plugins.accelerators import flash_attn, liger, unsloth

if TYPE_CHECKING:
    from collections.abc import Callable


def run_with(options: Any) -> Any:
    return SimpleNamespace(plan=SimpleNamespace(of=lambda _: options, sources={}))


# ---- flash_attn


@pytest.mark.parametrize(
    ("asked", "installed", "used"),
    [("auto", True, "fa2"), ("auto", False, "torch"), ("torch", True, "torch"), ("cudnn", False, "cudnn")],
)
def test_the_kernel_is_said_and_the_engine_keeps_it(
    monkeypatch: pytest.MonkeyPatch, asked: Any, installed: bool, used: str
) -> None:
    monkeypatch.setattr(flash_attn, "has_package", lambda: installed)
    model = tiny_model()
    run = run_with(flash_attn.FlashAttentionOptions(flash_attn_kernel=asked))
    change = flash_attn.ft_accelerate_model(run, model)
    assert flash_attn.NAMES[used] in change.summary
    Engine(model)
    assert model.config._attn_implementation == f"ft_packed_{used}"


@pytest.mark.parametrize(
    ("arch", "config", "why"),
    [
        ("gemma2", {}, "softcapping"),
        ("llama", {"head_dim": 20}, "heads are of size 20"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    ],
)
def test_a_model_that_the_kernel_cannot_serve_is_refused(arch: str, config: dict[str, Any], why: str) -> None:
    run = run_with(flash_attn.FlashAttentionOptions(flash_attn_kernel="torch"))
    with pytest.raises(ConfigError, match="cannot serve this model") as caught:
        flash_attn.ft_accelerate_model(run, tiny_model(arch, **config))
    assert why in caught.value.why


# ---- liger


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for liger-kernel that knows Llama; what its function was called with."""
    seen: dict[str, Any] = {}

    def apply(
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: Any = None,
    ) -> None:
        seen.update(locals())
        for layer in model.model.layers if swiglu else ():
            layer.mlp.forward = layer.mlp.forward

    package = ModuleType("liger_kernel.transformers.monkey_patch")
    package.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return seen


def test_ligers_kernels_go_in_without_its_loss(applied: dict[str, Any]) -> None:
    model = tiny_model()
    run = run_with(liger.LigerOptions(liger_kernel_config={"rope": False}))
    change = liger.ft_accelerate_model(run, model)
    assert change.modules == {"model.layers.0.mlp", "model.layers.1.mlp"}
    assert not applied["fused_linear_cross_entropy"]
    assert (applied["cross_entropy"], applied["rope"], applied["rms_norm"]) == (False, False, True)
    assert applied["model"] is model


@pytest.mark.parametrize(
    ("arch", "config", "what"),
    [
        ("phi", {}, "no kernels for the architecture phi"),
        ("llama", {"swiglo": True}, "has no swiglo"),
        ("llama", {"swiglu": False}, "changed nothing"),
    ],
)
@pytest.mark.usefixtures("applied")
def test_what_liger_does_not_have_is_an_error(arch: str, config: dict[str, bool], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        liger.ft_accelerate_model(run_with(liger.LigerOptions(liger_kernel_config=config)), tiny_model(arch))


# ---- unsloth


def test_unsloths_kernels_are_for_some_architectures() -> None:
    with pytest.raises(ConfigError, match="not for the architecture gemma3") as caught:
        unsloth.ft_accelerate_model(tiny_model("gemma3"))
    assert "llama" in caught.value.why


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Stand-ins for Unsloth's kernels, in plain PyTorch."""

    def norm(layer: Any, x: Any) -> Any:
        return type(layer).forward(layer, x)

    def mlp(layer: Any, x: Any, inplace: bool = True) -> Any:
        assert not inplace, "an input that others saved may not be overwritten"
        return type(layer).forward(layer, x)

    def parameters(layer: Any) -> tuple[Any, ...]:
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return layer.base_layer.weight, None, A, B, layer.scaling["default"]

    def product(x: Any, W: Any, _: Any, A: Any, B: Any, scaling: float) -> Any:
        return x @ W.t() + scaling * (x @ A.t() @ B.t())

    package, fast = ModuleType("unsloth.kernels"), ModuleType("unsloth.kernels.fast_lora")
    vars(package).update(apply_lora_mlp_swiglu=mlp, fast_rms_layernorm=norm, get_lora_parameters=parameters)
    vars(fast).update(LoRA_W=SimpleNamespace(apply=product))
    for module in (ModuleType("unsloth"), package, fast):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "ft_plugins.accelerators._layers.unsloth", raising=False)
    return lambda: None


@pytest.mark.parametrize(("arch", "norms", "projections"), [("llama", 5, 14), ("qwen2", 5, 8), ("qwen3", 9, 14)])
@pytest.mark.usefixtures("kernels")
def test_unsloths_kernels_are_bound_to_norms_mlps_and_projections(arch: str, norms: int, projections: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(arch), config)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        change = unsloth.ft_accelerate_model(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before)
    assert change.summary == f"Unsloth's kernels: {projections} LoRA, 2 MLP, {norms} RMSNorm"


@pytest.mark.usefixtures("kernels")
def test_under_autocast_to_another_format_a_projection_is_pefts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth's kernel adds a bfloat16 update into a float32 product, which autocast does not cast in place."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    unsloth.ft_accelerate_model(model)
    used: list[torch.dtype] = []
    layers = sys.modules["ft_plugins.accelerators._layers.unsloth"]
    monkeypatch.setattr(layers.LoRA_W, "apply", lambda x, W, *_: used.append(x.dtype) or x @ W.t())
    ids = torch.arange(5, 25)[None]
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)
    assert used == []
    model(input_ids=ids)
    assert used == [torch.float32] * 2
