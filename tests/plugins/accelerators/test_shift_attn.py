"""Attention within shifted groups is that of a dense mask, in float64; out of training attention is whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ft.errors import Problems
from ft.planning import make_plan
from ft.testing import tiny_model
from ft.training import Engine, pack
from ft.training.attention import packed_attention
from ft_hookspecs import Run
from ft_plugins.accelerators import shift_attn
from ft_plugins.accelerators._layers.shifted import shifted, use_shifted_attention

GROUP = 8
LENGTHS = (5, 8, 9, 31, 16, 40)


def dense(query: Tensor, key: Tensor, value: Tensor, group: int) -> Tensor:
    """One sequence, (1, H, N, D), by a mask of all pairs: who shares a group, and who comes before."""
    heads, length = query.shape[1], query.shape[2]
    key, value = (states.repeat_interleave(heads // states.shape[1], 1) for states in (key, value))
    place = torch.arange(length)
    masks = []
    for head in range(heads):
        shift = 0 if head < heads // 2 else group - group // 2
        number = (place + shift) // group if length > group else torch.zeros_like(place)
        masks.append((number[:, None] == number) & (place[:, None] >= place))
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return (scores.masked_fill(~torch.stack(masks)[None], float("-inf")).softmax(-1) @ value).transpose(1, 2)


def states(tokens: int, heads: int, shared: int, rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    query, key, value = (
        torch.randn(rows, number, tokens, 4, dtype=torch.float64, generator=draw).requires_grad_()
        for number in (heads, shared, shared)
    )
    return query, key, value


def marks(lengths: tuple[int, ...]) -> dict[str, Any]:
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(lengths), "max_length_k": max(lengths)}


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2), (4, 1), (9, 3)])
def test_a_packed_row_is_the_dense_mask(heads, shared):
    inputs = states(sum(LENGTHS), heads, shared)
    found, _ = shifted(packed_attention, GROUP, nn.Module(), *inputs, **marks(LENGTHS))
    parts = zip(*(each.split(LENGTHS, 2) for each in inputs), strict=True)
    expected = torch.cat([dense(*part, GROUP) for part in parts], 1)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * weight).sum(), inputs) for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_padded_rows_are_the_dense_mask():
    inputs = states(20, 4, 2, rows=3)
    found, _ = shifted(packed_attention, GROUP, nn.Module(), *inputs)
    rows = [dense(*(each[row : row + 1] for each in inputs), GROUP) for row in range(3)]
    torch.testing.assert_close(found, torch.cat(rows))


def test_branches_see_their_prompt_in_its_groups():
    prompt, first, second = 11, 9, 14
    rows = torch.cat([torch.arange(prompt + first), torch.arange(prompt), torch.arange(second) + prompt + first])
    own = torch.tensor([0, prompt + first, prompt + first + second], dtype=torch.int32)
    seen = torch.tensor([0, prompt + first, 2 * prompt + first + second], dtype=torch.int32)
    inputs = states(prompt + first + second, 4, 2)
    found, _ = shifted(
        packed_attention, GROUP, nn.Module(), *inputs, cu_seq_lens_q=own, cu_seq_lens_k=seen, key_rows=rows
    )
    whole = [each.index_select(2, rows).split([prompt + first, prompt + second], 2) for each in inputs]
    one, other = (dense(*part, GROUP) for part in zip(*whole, strict=True))
    torch.testing.assert_close(found, torch.cat([one, other[:, prompt:]], 1))


def test_the_end_is_never_joined_to_the_beginning():
    query, key, value = states(32, 4, 4)
    found, _ = shifted(packed_attention, GROUP, nn.Module(), query, key, value, **marks((32,)))
    (gradient,) = torch.autograd.grad(found[:, : GROUP // 2].sum(), value)
    assert gradient[:, :, GROUP // 2 :].abs().max() == 0


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_a_model_trains_in_groups_and_is_evaluated_whole(attention):
    features = [{"input_ids": list(range(4, 4 + length)), "labels": list(range(4, 4 + length))} for length in (40, 6)]
    batch, plain, grouped = pack(features), tiny_model(), tiny_model()
    use_shifted_attention(grouped, GROUP)
    engines = [Engine(each, attention) for each in (plain, grouped)]
    for engine in engines:
        engine.check(batch)
        assert engine.packed == (attention == "packed"), engine.reason
    plain.eval(), grouped.eval()
    whole, too = (engine.log_probs(batch) for engine in engines)
    torch.testing.assert_close(whole, too)
    plain.train(), grouped.train()
    trained, in_groups = (engine.log_probs(batch) for engine in engines)
    short = batch["sequence_of"] == 1
    torch.testing.assert_close(trained[short], in_groups[short])
    assert (trained - in_groups)[~short][: GROUP // 2 - 1].abs().max() < 1e-5  # the first half group sees all there is
    assert (trained - in_groups)[~short].abs().max() > 1e-3


def test_packed_and_padded_training_agree():
    features = [{"input_ids": list(range(4, 4 + length)), "labels": list(range(4, 4 + length))} for length in (40, 21)]
    batch, model = pack(features), tiny_model().train()
    use_shifted_attention(model, GROUP)
    found = []
    for attention in ("packed", "padded"):
        engine = Engine(model, attention)
        engine.checked = True
        found.append(engine.log_probs(batch))
    torch.testing.assert_close(*found)


def test_it_generates_with_full_attention():
    from ft.testing import tiny_tokenizer
    from ft.training import sample

    plain, grouped = tiny_model(), tiny_model()
    use_shifted_attention(grouped, 4)
    prompt = [list(range(10, 40))]
    answers = [sample(each, tiny_tokenizer(), prompt, max_new_tokens=6) for each in (plain, grouped.train())]
    assert answers[0] == answers[1]


# ---- the key


def plan_of(tmp_path, tiny_model_dir, *words: str):
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    base = (f"model_name_or_path={tiny_model_dir}", f"dataset={data}", f"output_dir={tmp_path / 'out'}")
    return make_plan(None, (*base, "shift_attn=true", *words))[0]


def test_groups_are_a_quarter_of_cutoff_len_and_said(tmp_path, tiny_model_dir):
    run = Run(plan_of(tmp_path, tiny_model_dir, "cutoff_len=128"))
    change = shift_attn.ft_accelerate_model(run, tiny_model())
    assert change.summary == "training attends within groups of 32 tokens, for half of the heads shifted by 16"
    assert run.decisions[0].startswith("shift_attn: samples of up to 32 tokens have plain attention")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cutoff_len=7",), "no groups in cutoff_len: 7"),
        (("stage=dpo",), "cannot be combined with stage: dpo"),
        (("stage=kto",), "cannot be combined with stage: kto"),
        (("flash_attn=disabled",), "cannot be combined with flash_attn: disabled"),
    ],
)
def test_bad_input(tmp_path, tiny_model_dir, words, said):
    with pytest.raises(Problems) as raised:
        plan_of(tmp_path, tiny_model_dir, *words)
    assert said in str(raised.value)
