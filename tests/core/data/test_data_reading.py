import pytest

from ft.data import load_splits
from ft.data.reading import held_out
from ft.errors import ConfigError, DataError, PluginError


def good(number):
    return [{"q": f"question {n}", "a": f"answer {n}"} for n in range(number)]


def bad(where="data:2"):
    return DataError("malformed", where=where, why="the rule")


def read(hook, plan):
    """The examples of the one split, and what became of its rows."""
    [(_, examples, counts)] = load_splits(hook, plan)
    return list(examples), counts


def questions(examples):
    return [example.messages[0].content for example in examples]


def test_rows_are_read_limited_and_counted(hook, rows, make_plan):
    rows.rows = good(5)
    examples, counts = read(hook, make_plan(dataset=["a/one", "a/two"], max_samples=3))
    assert questions(examples) == ["question 0", "question 1", "question 2"] * 2
    assert (counts.rows, counts.examples) == (6, 6)
    assert examples[0].where == "a/one:1"


def test_num_samples_draws_each_row_once_before_any_twice(hook, rows, make_plan, write_info):
    rows.rows = good(6)
    plan = make_plan(dataset=["mine"])
    write_info({"mine": {"hf_hub_url": "a/b", "num_samples": 4}})
    first = questions(read(hook, plan)[0])
    assert len(set(first)) == 4
    assert first == questions(read(hook, plan)[0])
    write_info({"mine": {"hf_hub_url": "a/b", "num_samples": 9}})
    drawn = questions(read(hook, plan)[0])
    assert len(drawn) == 9
    assert len(set(drawn[:6])) == 6


def test_a_row_that_is_drawn_twice_is_not_both_measured_and_trained_on(hook, rows, make_plan, write_info):
    rows.rows = good(6)
    write_info({"mine": {"hf_hub_url": "a/b", "num_samples": 9}})
    with pytest.raises(DataError, match=r"more than once(?s:.*)at most 6") as caught:
        list(load_splits(hook, make_plan(dataset=["mine"], val_size=2)))
    assert caught.value.where.endswith("dataset_info.json:2")
    assert len(list(load_splits(hook, make_plan(dataset=["mine"], val_size=2, max_samples=6)))) == 2


def test_the_first_bad_row_stops_with_its_place_and_the_way_on(hook, rows, make_plan):
    rows.rows = [*good(1), bad(), *good(1)]
    with pytest.raises(DataError, match="on_bad_row: skip") as caught:
        read(hook, make_plan(dataset=["a/b"]))
    assert caught.value.where == "data:2"


def test_skipped_rows_are_counted_by_the_rule_they_broke(hook, rows, make_plan):
    rows.rows = [bad(), *good(2), bad("data:4")]
    plan = make_plan(dataset=["a/b"], on_bad_row="skip")
    examples, counts = read(hook, plan)
    assert len(examples) == 2
    assert (counts.rows, counts.examples, counts.dropped) == (4, 2, {"the rule": 2})
    rows.rows = [bad()]
    with pytest.raises(DataError, match=r"no row of dataset can be used\n  why: the rule: 1 rows"):
        read(hook, plan)


def test_an_empty_data_set_is_an_error(hook, make_plan):
    with pytest.raises(DataError, match="has no rows"):
        read(hook, make_plan(dataset=["a/b"], on_bad_row="skip"))


def test_columns_that_fit_no_format_are_named(hook, rows, make_plan):
    rows.rows = [{"x": "1", "y": "2"}]
    with pytest.raises(DataError, match=r"no format fits the columns .*: x, y") as caught:
        read(hook, make_plan(dataset=["a/b"], on_bad_row="skip"))
    assert caught.value.where == "a/b:1"


def test_an_unknown_formatting_is_named(hook, rows, make_plan, write_info):
    write_info({"mine": {"hf_hub_url": "a/b", "formatting": "alpacca"}})
    rows.rows = [{"x": "1"}]
    with pytest.raises(DataError, match="unknown formatting 'alpacca'") as caught:
        read(hook, make_plan(dataset=["mine"]))
    assert caught.value.where.endswith("dataset_info.json:2")


def test_a_format_that_breaks_is_blamed(hook, rows, make_plan):
    def breaks():
        raise KeyError("oops")

    rows.rows = [{"q": "x", "a": breaks}]
    with pytest.raises(PluginError, match="failed on a row") as caught:
        read(hook, make_plan(dataset=["a/b"], on_bad_row="skip"))
    assert caught.value.where == "a/b:1"


def test_splits(hook, rows, make_plan):
    rows.rows = good(10)
    splits = {
        name: (found, counts) for name, found, counts in load_splits(hook, make_plan(dataset=["a/b"], val_size=3))
    }
    assert [len(splits[name][0]) for name in ("train", "eval")] == [7, 3]
    assert [len(list(splits[name][0])) for name in ("train", "eval")] == [7, 3]
    assert not set(questions(splits["train"][0])) & set(questions(splits["eval"][0]))
    assert (splits["train"][1].rows, splits["train"][1].examples, splits["eval"][1].examples) == (10, 7, 3)
    named = [name for name, _, _ in load_splits(hook, make_plan(dataset=["a/b"], eval_dataset=["a/c"]))]
    assert named == ["train", "eval"]
    with pytest.raises(ConfigError, match="no data set"):
        list(load_splits(hook, make_plan()))


def test_what_is_held_out_is_chosen_by_the_seed_and_leaves_something_on_both_sides():
    assert sum(held_out(20, 0.25, 1)) == 5
    assert held_out(20, 0.25, 1) == held_out(20, 0.25, 1) != held_out(20, 0.25, 2)
    assert sum(held_out(20, 7, 1)) == 7
    assert not any(held_out(20, 0, 1))
    for size in (20, 0.001):
        with pytest.raises(DataError, match="val_size"):
            held_out(20, size, 1)
