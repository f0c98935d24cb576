from dataclasses import replace

import pytest

from ft.data import load_splits
from ft.data.checks import OF_ROWS, data_notes, data_problems
from ft.data.mixing import mix, mixed_size
from ft.errors import DataError
from ft_hookspecs import Plan

STOPPING = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}


@pytest.mark.parametrize("strategy", STOPPING)
@pytest.mark.parametrize("probabilities", [None, [0.7, 0.2, 0.1]])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (5, 3, 4), (20, 2, 11)])
def test_mixing_is_that_of_datasets(strategy, probabilities, sizes):
    from datasets import Dataset, interleave_datasets

    lists = [[100 * number + item for item in range(size)] for number, size in enumerate(sizes)]
    sets = [Dataset.from_dict({"a": items}) for items in lists]
    expected = interleave_datasets(sets, probabilities=probabilities, seed=5, stopping_strategy=STOPPING[strategy])
    mixed = list(mix([items.__iter__ for items in lists], strategy, probabilities, 5))
    assert mixed == expected["a"][:]
    assert mixed_size(sizes, strategy, probabilities, 5) == len(mixed)


def good(number):
    return [{"q": f"question {n}", "a": f"answer {n}"} for n in range(number)]


def wheres(examples):
    return [example.where.removeprefix("a/") for example in examples]


@pytest.fixture
def splits(hook, rows, make_plan):
    rows.rows = good(3)

    def splits(**options):
        return {name: (found, counts) for name, found, counts in load_splits(hook, make_plan(**options))}

    return splits


def test_the_data_sets_of_a_run_are_interleaved(splits):
    named = {"dataset": ["a/x", "a/y"]}
    assert wheres(splits(**named)["train"][0]) == ["x:1", "x:2", "x:3", "y:1", "y:2", "y:3"]
    train, counts = splits(**named, mix_strategy="interleave_under")["train"]
    assert wheres(train) == ["x:1", "y:1", "x:2", "y:2", "x:3", "y:3"] == wheres(train)
    drawn, counts = splits(**named, mix_strategy="interleave_over", interleave_probs=[0.9, 0.1])["train"]
    assert len(wheres(drawn)) == len(drawn) == counts.examples > 6
    assert {"y:1", "y:2", "y:3"} < set(wheres(drawn))


def test_what_is_held_out_of_a_mixture_is_not_trained_on(splits):
    found = splits(dataset=["a/x", "a/y"], mix_strategy="interleave_over", interleave_probs=[0.8, 0.2], val_size=2)
    train, held_out = (set(wheres(found[name][0])) for name in ("train", "eval"))
    assert len(train) == 4
    assert len(held_out) == 2
    assert not train & held_out


def test_what_is_held_out_of_a_stream_is_in_no_pass_although_the_mixture_repeats_rows(splits):
    found = splits(
        dataset=["a/x", "a/y"], mix_strategy="interleave_over", interleave_probs=[0.8, 0.2], val_size=2, streaming=True,
        buffer_size=50,
    )  # fmt: skip
    train, held_out = found["train"][0], set(wheres(found["eval"][0]))
    assert len(held_out) == 2
    for number in range(3):
        given = wheres(train.convert(loaded for _, block in train.blocks(number) for loaded in block))
        assert len(given) == train.size > len(set(given)) == 4
        assert not held_out & set(given)


def test_each_eval_data_set_may_be_measured_by_its_name(splits):
    found = splits(dataset=["a/x"], eval_dataset=["a/y", "a/z"], eval_on_each_dataset=True)
    assert {name: wheres(examples) for name, (examples, _) in found.items() if name != "train"} == {
        "a/y": ["y:1", "y:2", "y:3"],
        "a/z": ["z:1", "z:2", "z:3"],
    }
    together = splits(dataset=["a/x"], eval_dataset=["a/y", "a/z"])
    assert len(together["eval"][0]) == 6


def test_data_that_changes_between_the_two_readings_is_an_error(splits, rows):
    train, _ = splits(dataset=["a/x"])["train"]
    rows.rows[1]["a"] = "another answer"
    with pytest.raises(DataError, match="changed while it was being read"):
        list(train)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interleave_probs": [0.5, 0.5]}, "no effect with mix_strategy: concat"),
        ({"interleave_probs": [0.5], "mix_strategy": "interleave_under"}, "1 shares for 2 data sets"),
        ({"eval_on_each_dataset": True}, "no effect without eval_dataset"),
        ({"eval_on_each_dataset": True, "eval_dataset": ["a/x", "a/x"]}, "two splits would be called 'a/x'"),
        ({"streaming": True}, "how long to train on a/x is unknown"),
        ({"streaming": True, "val_size": 0.1}, "val_size: 0.1 cannot be used with streaming"),
        ({"streaming": True, "val_size": 9, "buffer_size": 8}, "val_size: 9 cannot be used"),
        ({"streaming": True, "tokenized_path": "x"}, "tokenized_path cannot be used with streaming"),
    ],
)
def test_what_cannot_be_together_is_a_problem(make_plan, options, said):
    problems = list(data_problems(make_plan(dataset=["a/x", "a/y"], **options)))
    assert any(said in problem.what for problem in problems), problems
    assert all(problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("eval_strategy", "epoch", "no end to wait for"),
        ("save_strategy", "epoch", "no end to wait for"),
        ("logging_strategy", "epoch", "no end to wait for"),
    ],
)
def test_what_a_stream_would_not_heed_is_a_problem(make_plan, key, value, said):
    plan = make_plan(dataset=["a/x"], streaming=True)
    asked = Plan({**plan.values, "max_steps": 5, key: value}, {}, (), plan.models, None)
    [problem] = data_problems(asked)
    assert problem.keys == (key, "streaming")
    assert said in problem.why


def test_workers_do_nothing_for_a_stream_and_this_is_told(make_plan):
    plan = make_plan(dataset=["a/x"], preprocessing_num_workers=2)
    asked = replace(plan, values={**plan.values, "streaming": True, "max_steps": 5, "dataloader_num_workers": 2})
    assert not list(data_notes(plan))
    assert not list(data_problems(asked))
    assert [note.keys for note in data_notes(asked)] == [("preprocessing_num_workers",), ("dataloader_num_workers",)]


@pytest.mark.parametrize(
    "chooses",
    [{"load_best_model_at_end": True}, {"save_strategy": "best"}, {"lr_scheduler_type": "reduce_lr_on_plateau"}],
)
def test_what_is_best_is_measured_by_the_name_of_one_data_set(make_plan, chooses):
    plan = make_plan(dataset=["a/x"], eval_dataset=["a/y", "a/z"], eval_on_each_dataset=True)
    [problem] = data_problems(replace(plan, values={**plan.values, **chooses}))
    assert problem.what == "metric_for_best_model: loss is not measured"
    assert "metric_for_best_model: a/y_loss" in problem.remedy
    named = {**chooses, "metric_for_best_model": "eval_a/z_loss"}
    assert not list(data_problems(replace(plan, values={**plan.values, **named})))
    alone = make_plan(dataset=["a/x"], eval_dataset=["a/y"], eval_on_each_dataset=True)
    assert not list(data_problems(replace(alone, values={**alone.values, **chooses})))


ROW_KEYS = {
    "max_samples": 3,
    "val_size": 2,
    "mix_strategy": "interleave_under",
    "overwrite_cache": True,
    "preprocessing_num_workers": 2,
    "preprocessing_batch_size": 10,
}


def test_keys_of_rows_say_nothing_where_only_tokens_are_kept(make_plan):
    assert {*ROW_KEYS, "interleave_probs"} == set(OF_ROWS)
    for key, value in ROW_KEYS.items():
        [problem] = data_problems(make_plan(tokenized_path="kept", **{key: value}))
        assert problem.what == f"{key} has no effect: tokenized_path is used as it is"
        assert not list(data_problems(make_plan(tokenized_path="kept", dataset=["a/x"], **{key: value})))
    assert not list(data_problems(make_plan(tokenized_path="kept")))


def test_an_empty_data_set_of_a_stream_is_an_error_whatever_the_others_hold(splits, rows):
    rows.empty = "a/y"
    for strategy in STOPPING:
        with pytest.raises(DataError, match="'a/y' has no rows"):
            splits(dataset=["a/x", "a/y"], streaming=True, mix_strategy=strategy)
    rows.empty = "a/x"
    with pytest.raises(DataError, match="'a/x' has no rows"):
        splits(dataset=["a/x"], streaming=True)


def test_a_stream_of_known_length_or_with_max_steps_is_no_problem(make_plan, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"q": "x", "a": "y"}\n')
    assert not list(data_problems(make_plan(dataset=["x.jsonl"], streaming=True, val_size=3, max_samples=9)))
    plan = make_plan(dataset=["a/x"], streaming=True)
    steps = Plan({**plan.values, "max_steps": 5}, {}, (), plan.models, None)
    assert not list(data_problems(steps))
