"""Answers that share their prompt: packed once, they are the examples of the padded batch, to the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ft.errors import TrainingError
from ft.testing.tiny import ARCHITECTURES
from ft.training import Engine, attention, pack, pad, per_sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

PAIR: dict[str, Any] = {
    "prompt_ids": [5, 6, 7],
    "branches": [
        {"input_ids": [8, 9], "labels": [8, 9], "reference": [-1.0, -2.0]},
        {"input_ids": [10, 11, 12], "labels": [10, -100, 12], "reference": [-3.0, -4.0]},
    ],
}
PLAIN = {"input_ids": [1, 2], "labels": [1, 2], "reference": [-5.0]}


def spelled_out(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same sequences, each with its own prompt."""
    return [
        {
            "input_ids": [*prompt, *branch["input_ids"]],
            "labels": [-100] * len(prompt) + branch["labels"],
            "loss_weights": [1.0] * len(prompt) + branch.get("loss_weights", [1.0] * len(branch["input_ids"])),
        }
        for feature in features
        for prompt in [feature.get("prompt_ids", [])]
        for branch in feature.get("branches", [feature])
    ]


@pytest.fixture
def branched() -> list[dict[str, Any]]:
    """Pairs, a plain sequence among them, four answers to one prompt, and a prompt and an answer of one token."""
    draw = torch.Generator().manual_seed(2)

    def tokens(length: int) -> list[int]:
        return torch.randint(4, 384, (length,), generator=draw).tolist()

    def answer(length: int) -> dict[str, Any]:
        ids = tokens(length)
        return {"input_ids": ids, "labels": [-100] * (length // 4) + ids[length // 4 :]}

    return [
        {"prompt_ids": tokens(20), "branches": [answer(9), answer(25)]},
        answer(14),
        {"prompt_ids": tokens(31), "branches": [answer(length) for length in (3, 17, 1, 8)]},
        {"prompt_ids": tokens(1), "branches": [answer(1), answer(2)]},
    ]


# ---- the batch


def test_a_prompt_stands_once_before_its_branches() -> None:
    batch = pack([PLAIN, PAIR])
    assert batch["input_ids"].tolist() == [[1, 2, 5, 6, 7, 8, 9, 10, 11, 12]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch["cu_seqlens"].tolist() == [0, 2, 7, 10]
    assert batch["cu_keys"].tolist() == [0, 2, 7, 13]
    assert batch["key_rows"].tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 7, 8, 9]
    assert batch["cu_keys"].dtype == torch.int32
    assert batch["max_length"] == 6


def test_the_first_label_of_a_branch_is_predicted_by_the_prompt() -> None:
    batch = pack([PLAIN, PAIR])
    assert batch["targets"].tolist() == [2, 8, 9, 10, 12]
    assert batch["rows"].tolist() == [0, 4, 5, 4, 8]
    assert batch["sequence_of"].tolist() == [0, 1, 1, 2, 2]
    assert per_sequence(batch, torch.ones(5)).tolist() == [1, 2, 2]


def test_a_reference_follows_its_labels() -> None:
    assert pack([PLAIN, PAIR])["reference"].tolist() == [-5, -1, -2, -3, -4]
    of_all = {**PAIR, "branches": [{**each, "reference": []} for each in PAIR["branches"]]}
    for branch in of_all["branches"]:
        branch.pop("reference")
    assert pack([{**of_all, "reference": [1.0, 2.0, 3.0, 4.0]}])["reference"].tolist() == [1, 2, 3, 4]
    assert "reference" not in pack([of_all])
    with pytest.raises(ValueError, match="1 reference values for 5 labels"):
        pack([PLAIN, of_all])


def test_without_branches_nothing_is_added() -> None:
    assert {"cu_keys", "key_rows"}.isdisjoint(pack([PLAIN]))
    assert {"cu_keys", "key_rows"}.isdisjoint(
        pack([{"prompt_ids": [], "branches": [{"input_ids": [3, 4], "labels": [3, 4]}] * 2}])
    )


def test_tensors_pack_as_lists() -> None:
    tensors = {
        "prompt_ids": torch.tensor(PAIR["prompt_ids"]),
        "branches": [{name: torch.tensor(value) for name, value in each.items()} for each in PAIR["branches"]],
    }
    listed, batch = pack([PAIR]), pack([tensors])
    assert all(torch.equal(batch[name], value) for name, value in listed.items() if name != "max_length")


def test_padding_repeats_the_prompt(branched: list[dict[str, Any]]) -> None:
    weighted = branched[0]["branches"][1]
    weighted["loss_weights"] = [0.5] * len(weighted["input_ids"])
    batch, plain = pack(branched), pack(spelled_out(branched))
    for name, values in pad(plain).items():
        assert torch.equal(pad(batch)[name], values), name
    for name in ("targets", "sequence_of", "weights"):
        assert torch.equal(batch[name], plain[name]), name


# ---- attention


LENGTHS, SHARED = (7, 3, 1, 5, 6), (0, 4, 7, 0, 5)
"""Five runs; the second and third see 4 and 7 tokens of the first, the last 5 of the fourth."""


@pytest.fixture
def case() -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    starts = [0, 7, 10, 11, 16]
    rows = [
        *(range(7)),
        *(*range(4), *range(7, 10)),
        *(*range(7), 10),
        *range(11, 16),
        *(*range(11, 16), *range(16, 22)),
    ]
    draw = torch.Generator().manual_seed(0)
    states = tuple(torch.randn(1, heads, 22, 8, generator=draw, requires_grad=True) for heads in (4, 2, 2))
    keys = torch.tensor([0, *LENGTHS]) + torch.tensor([0, *SHARED])
    return states, {
        "cu_seq_lens_q": torch.tensor([*starts, 22], dtype=torch.int32),
        "cu_seq_lens_k": keys.cumsum(0).to(torch.int32),
        "max_length_q": 11,
        "key_rows": torch.tensor(rows),
    }


def dense(states: tuple[torch.Tensor, ...], window: int) -> torch.Tensor:
    """Full attention of the row under an explicit mask."""
    mask = torch.zeros(22, 22, dtype=torch.bool)
    for start, length, shared, origin in zip((0, 7, 10, 11, 16), LENGTHS, SHARED, (0, 0, 0, 11, 11), strict=True):
        for i in range(length):
            seen = [*range(origin, origin + shared), *range(start, start + i + 1)]
            mask[start + i, seen[-window:]] = True
    return scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)


def lower_right(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, longest_q: int, longest_k: int, window_size: Any, **options: Any
) -> Any:
    """What the variable-length kernels document: (T, heads, D), queries and keys aligned at their ends."""
    outputs = []
    for s in range(len(cu_q) - 1):
        own, seen = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
        queries, keys = own.stop - own.start, seen.stop - seen.start
        assert queries <= longest_q
        assert keys <= longest_k
        distance = (torch.arange(queries)[:, None] + keys - queries) - torch.arange(keys)
        mask = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
        heads = (each.transpose(0, 1)[None] for each in (q[own], k[seen], v[seen]))
        output = scaled_dot_product_attention(*heads, attn_mask=mask, scale=options["scale"], enable_gqa=True)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("kernel", ["segments", "variable length"])
def test_a_branch_attends_to_its_prompt_and_itself(
    monkeypatch: pytest.MonkeyPatch, case: Any, window: int | None, kernel: str
) -> None:
    states, bounds = case
    if kernel == "variable length":
        monkeypatch.setattr(attention, "_varlen_can", lambda *_: True)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lower_right)
    found, _ = attention.packed_attention(None, *states, None, scaling=0.3, sliding_window=window, **bounds)
    expected = dense(states, window or 100)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for got, wanted in zip(
        torch.autograd.grad((found * weight).sum(), states),
        torch.autograd.grad((expected * weight).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


# ---- the engine


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "mistral-sliding", "gemma", "gemma3"])
def test_log_probs_and_gradients_are_those_of_the_padded_forward(
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[..., nn.Module],
    branched: list[dict[str, Any]],
    arch: str,
    tuning: str,
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "gemma", ("gemma", {"head_dim": 16}))
    padded, packed = Engine(build(arch, tuning), "padded"), Engine(build(arch, tuning), "packed")
    packed.check(pack(branched))
    expected, found = padded.log_probs(pack(spelled_out(branched))), packed.log_probs(pack(branched))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for values in (expected, found):
        (values.square() * torch.arange(len(values))).mean().backward()
    wanted, got = gradients(padded.model), gradients(packed.model)
    floor = 1e-6 * max(gradient.norm() for gradient in wanted.values())
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + floor, name


def test_the_loss_is_that_of_the_spelled_out_batch(
    build: Callable[..., nn.Module], branched: list[dict[str, Any]]
) -> None:
    found = [
        Engine(build(), how).cross_entropy(pack(features), 30)
        for how in ("packed", "padded")
        for features in (branched, spelled_out(branched))
    ]
    for loss in found[1:]:
        torch.testing.assert_close(loss, found[0], rtol=1e-5, atol=0)


def test_gradient_checkpointing_keeps_the_prompts(
    build: Callable[..., nn.Module], branched: list[dict[str, Any]]
) -> None:
    found = []
    for checkpointing in (False, True):
        model = build("llama")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        Engine(model, "packed").log_probs(pack(branched)).sum().backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def forgetful(*args: Any, **kwargs: Any) -> Any:
    """Packed attention in which a branch does not see its prompt."""
    if "cu_seq_lens_q" in kwargs:
        kwargs = {**kwargs, "cu_seq_lens_k": kwargs["cu_seq_lens_q"]}
    return attention.packed_attention(*args, **kwargs)


def test_the_self_check_proves_branches_on_any_first_batch(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., nn.Module], branched: list[dict[str, Any]]
) -> None:
    for first in (branched, branched[1:2]):
        engine, demanded = Engine(build()), Engine(build(), attention="packed")
        with monkeypatch.context() as patched:
            broken = {**attention.AttentionInterface._global_mapping, attention.NAME: forgetful}
            patched.setattr(attention.AttentionInterface, "_global_mapping", broken)
            engine.check(pack(first))
            assert not engine.packed
            assert "differ" in engine.reason
            with pytest.raises(TrainingError, match="not exact"):
                demanded.check(pack(first))
