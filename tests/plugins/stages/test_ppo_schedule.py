"""Which prompts a rollout takes and in which order its answers are learned."""

from __future__ import annotations

from dataclasses import replace

import torch

from ft_plugins.stages._trainers.rollout import Schedule, seeded

SCHEDULE = Schedule(prompts=20, batch=2, parts=3, passes=4, seed=7)


def epoch(schedule: Schedule, number: int = 0) -> list[int]:
    first = number * schedule.rollouts
    return [row for rollout in range(first, first + schedule.rollouts) for row in schedule.rows(rollout)]


def test_an_epoch_takes_every_prompt_and_fills_its_last_rollout_up() -> None:
    assert SCHEDULE.rollouts == 4
    rows = epoch(SCHEDULE)
    assert sorted(rows[:20]) == list(range(20))
    assert rows[20:] == rows[:4]
    assert sorted(epoch(SCHEDULE, 1)[:20]) == list(range(20))
    assert epoch(SCHEDULE, 1) != rows
    assert epoch(replace(SCHEDULE, seed=8)) != rows


def test_in_order_without_shuffling() -> None:
    assert epoch(replace(SCHEDULE, shuffled=False)) == [*range(20), *range(4)]


def test_fewer_prompts_than_a_rollout_takes() -> None:
    few = replace(SCHEDULE, prompts=4)
    assert few.rollouts == 1
    assert [few.rows(0).count(row) for row in range(4)].count(2) == 2


def test_processes_share_the_prompts_of_one() -> None:
    shares = [replace(SCHEDULE, batch=1, process=process, processes=2) for process in range(2)]
    for rollout in range(SCHEDULE.rollouts):
        assert shares[0].rows(rollout) + shares[1].rows(rollout) == SCHEDULE.rows(rollout)
    assert shares[0].draws(0) != shares[1].draws(0)


def test_each_pass_learns_every_answer_once_in_an_order_of_its_own() -> None:
    assert SCHEDULE.micro_batches == 12
    passes = [[place for part in range(3) for place in SCHEDULE.micro_batch(1, turn * 3 + part)] for turn in range(4)]
    assert all(sorted(places) == list(range(6)) for places in passes)
    assert len({tuple(places) for places in passes}) > 1
    assert SCHEDULE.micro_batch(1, 5) == replace(SCHEDULE).micro_batch(1, 5)


def test_a_step_is_the_same_however_it_is_accumulated() -> None:
    """Four micro-batches of one answer are one of four."""
    whole = replace(SCHEDULE, batch=4, parts=3)
    cut = replace(SCHEDULE, batch=1, parts=12)
    for step in range(12):
        parts = [place for part in range(4) for place in cut.micro_batch(0, step * 4 + part)]
        assert parts == whole.micro_batch(0, step)


def test_what_is_drawn_inside_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    with seeded(3, torch.device("cpu")):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3, torch.device("cpu")):
        assert torch.equal(torch.rand(2), first)
