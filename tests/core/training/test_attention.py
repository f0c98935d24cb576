"""Packed attention: each sequence alone, no mask over the row, and plain SDPA without boundaries."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ft.testing import tiny_model
from ft.training import attention, pack
from ft.training.attention import packed_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MODULE: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True)
LENGTHS = (5, 9, 1)


@pytest.fixture
def states() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, heads, sum(LENGTHS), 8, generator=draw) for heads in (4, 2, 2))


def boundaries() -> dict[str, Any]:
    return {"cu_seq_lens_q": torch.tensor([0, 5, 14, 15], dtype=torch.int32), "max_length_q": 9}


def dense(states: tuple[torch.Tensor, ...], window: int) -> torch.Tensor:
    """Full attention under an explicit block mask."""
    sequence = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    place = torch.arange(sum(LENGTHS))
    distance = place[:, None] - place
    mask = (sequence[:, None] == sequence) & (distance >= 0) & (distance < window)
    return scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 4, 100])
def test_each_sequence_attends_to_itself_alone(states: tuple[torch.Tensor, ...], window: int | None) -> None:
    output, _ = packed_attention(MODULE, *states, None, scaling=0.3, sliding_window=window, **boundaries())
    torch.testing.assert_close(output, dense(states, window or 100))


def test_short_bf16_sequences_are_computed_in_fp32_and_rounded_once(states: tuple[torch.Tensor, ...]) -> None:
    coarse = tuple(each.bfloat16() for each in states)
    output, _ = packed_attention(MODULE, *coarse, None, scaling=0.3, **boundaries())
    exact = dense(tuple(each.float() for each in coarse), 100)
    torch.testing.assert_close(output, exact.bfloat16(), rtol=0, atol=0)


def test_dropout_is_honoured(states: tuple[torch.Tensor, ...]) -> None:
    plain, _ = packed_attention(MODULE, *states, None, **boundaries())
    dropped, _ = packed_attention(MODULE, *states, None, dropout=0.5, **boundaries())
    assert not torch.allclose(plain, dropped)


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_what_no_kernel_computes_is_refused(states: tuple[torch.Tensor, ...], name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        packed_attention(MODULE, *states, None, **boundaries(), **{name: 1.0})


def test_no_mask_of_the_whole_row_is_built(monkeypatch: pytest.MonkeyPatch, features: list[dict[str, Any]]) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a mask was built")

    model = packed_model("mistral-sliding")
    monkeypatch.setattr(
        "transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping", {"ft_packed": forbidden}
    )
    batch = pack(features)
    model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **attention.boundaries(batch))


@pytest.mark.parametrize("arch", ["llama", "mistral-sliding", "gemma3"])
def test_without_boundaries_it_is_sdpa(arch: str) -> None:
    plain, model = tiny_model(arch), packed_model(arch)
    tokens = torch.randint(4, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :13] = 0
    torch.testing.assert_close(
        model(tokens, attention_mask=mask).logits[mask == 1], plain(tokens, attention_mask=mask).logits[mask == 1]
    )
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 3}
    assert model.generate(tokens, **settings).tolist() == plain.generate(tokens, **settings).tolist()


def packed_model(arch: str) -> nn.Module:
    model = tiny_model(arch)
    attention.register()
    model.set_attn_implementation(attention.NAME)
    return model.eval()


# ---- the CUDA path: which arguments reach the kernels; no GPU is needed to check that


def sequences_through_sdpa(record: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """A stand-in for a variable-length kernel, (T, heads, D), that keeps its arguments."""

    def kernel(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, longest_q: int, longest_k: int, **options: Any) -> Any:
        record.update(
            options, shapes=(q.shape, k.shape), cu=(cu_q, cu_k), longest=(longest_q, longest_k), dtype=q.dtype
        )
        return torch.zeros_like(q)

    return kernel


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_varlen_can", lambda *_: True)


@pytest.mark.parametrize(("window", "expected"), [(None, (-1, 0)), (4, (3, 0)), (100, (-1, 0))])
def test_pytorchs_kernel_gets_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
    on_cuda: None,
    states: tuple[torch.Tensor, ...],
    window: int | None,
    expected: tuple[int, int],
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(attention, "VARLEN", attention.VARLEN | {"enable_gqa"})
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", sequences_through_sdpa(seen))
    output, _ = packed_attention(MODULE, *states, None, scaling=0.3, sliding_window=window, **boundaries())
    assert output.shape == (1, 15, 4, 8)
    assert seen["shapes"] == ((15, 4, 8), (15, 2, 8))
    assert seen["window_size"] == expected  # the kernel counts the window without the token itself
    assert seen["longest"] == (9, 9)
    assert (seen["scale"], seen["enable_gqa"]) == (0.3, True)


def test_a_kernel_that_knows_nothing_of_shared_keys_is_not_told(
    monkeypatch: pytest.MonkeyPatch, on_cuda: None, states: tuple[torch.Tensor, ...]
) -> None:
    """PyTorch 2.11: the kernel takes fewer heads of keys without being told."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(attention, "VARLEN", frozenset({"scale", "window_size"}))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", sequences_through_sdpa(seen))
    packed_attention(MODULE, *states, None, **boundaries())
    assert "enable_gqa" not in seen


@pytest.mark.parametrize(("window", "expected"), [(None, (-1, -1)), (4, (3, 0))])
def test_flash_attn_is_preferred_and_gets_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
    on_cuda: None,
    states: tuple[torch.Tensor, ...],
    window: int | None,
    expected: tuple[int, int],
) -> None:
    seen: dict[str, Any] = {}
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = sequences_through_sdpa(seen)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    packed_attention(MODULE, *states, None, dropout=0.1, scaling=0.3, sliding_window=window, **boundaries())
    assert seen["window_size"] == expected
    assert (seen["causal"], seen["dropout_p"], seen["softmax_scale"]) == (True, 0.1, 0.3)


def test_autocast_decides_the_kernels_dtype(
    monkeypatch: pytest.MonkeyPatch, on_cuda: None, states: tuple[torch.Tensor, ...]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", sequences_through_sdpa(seen))
    with torch.autocast("cpu", torch.bfloat16):
        packed_attention(MODULE, *states, None, **boundaries())
    assert seen["dtype"] == torch.bfloat16


BF16 = torch.bfloat16
CALL = {"dtype": BF16, "size": 64, "dropout": 0.0, "kernel": None, "flash_attn": False, "capability": (9, 0)}


@pytest.mark.parametrize(
    ("call", "taken"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"size": 512}, False),
        ({"size": 20}, False),
        ({"dropout": 0.1}, False),
        ({"dropout": 0.1, "flash_attn": True}, True),
        ({"dropout": 0.1, "flash_attn": True, "kernel": "torch"}, False),  # PyTorch's kernel has no dropout
        ({"dropout": 0.1, "flash_attn": True, "kernel": "fa2"}, True),
        ({"capability": (7, 5)}, False),
        ({"parameters": frozenset({"is_causal"})}, False),  # PyTorch 2.10: no window and no scale
        ({"parameters": frozenset({"is_causal"}), "flash_attn": True}, True),
    ],
)
def test_which_calls_the_kernels_take(monkeypatch: pytest.MonkeyPatch, call: dict[str, Any], taken: bool) -> None:
    call = {**CALL, "parameters": attention.VARLEN, **call}
    monkeypatch.setattr(attention, "VARLEN", call["parameters"])
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: call["flash_attn"])
    monkeypatch.setattr(attention, "_capabilities", lambda: [call["capability"]])
    shape = (1, 4, 10, call["size"])
    query: Any = SimpleNamespace(is_cuda=True, dtype=call["dtype"], device=torch.device("cuda"), shape=shape)
    assert attention._varlen_can(query, call["dropout"], call["kernel"]) is taken


def test_compiled_attention_asks_the_devices_once() -> None:
    """What a compiler would have to trace through (drivers, metadata) is a constant to it."""

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if attention._devices_can() else x

    compiled = torch.compile(doubled, backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == doubled(torch.ones(2)).tolist()


def test_the_varlen_path_is_one_graph_with_its_kernel(
    monkeypatch: pytest.MonkeyPatch, on_cuda: None, states: tuple[torch.Tensor, ...]
) -> None:
    """What a compiler on a GPU traces; nothing is computed here."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return lambda *_: (torch.zeros(1, 15, 4, 8),)

    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        return packed_attention(MODULE, *inputs, None, scaling=0.3, sliding_window=4, **boundaries())[0]

    with torch.no_grad():
        torch.compile(attend, backend=backend, fullgraph=True, dynamic=True)(*states)
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("_varlen_attn" in each for each in called) == 1
