import json

import pytest

from ft.data import ChatTemplate, cached_dataset, prepare_supervised, prepare_text
from ft.data.spans import COLUMNS, Tokens
from ft.errors import ConfigError, DataError, EnvironmentProblem
from ft_hookspecs import DataCounts, Example, Message, Run


@pytest.fixture
def builds():
    return []


@pytest.fixture
def cached(tmp_path, builds):
    def cached(*key, samples=((1, 2, 3), (4, 5)), weighted=False, overwrite=False):
        counts = DataCounts()

        def build(made):
            builds.append(key)
            made.drop("why not")
            for ids in samples:
                made.tokens += len(ids)
                yield Tokens(list(ids), [-100, *ids[1:]], [0.5] * len(ids)).row(weighted=weighted)

        dataset = cached_dataset(
            build, columns={**COLUMNS, "loss_weights": "list<float32>"} if weighted else COLUMNS, key_parts=key,
            cache_dir=tmp_path / "c", counts=counts, overwrite=overwrite,
        )  # fmt: skip
        return dataset, counts

    return cached


def test_the_second_time_is_from_the_cache_with_its_counts(cached, builds):
    first, counts = cached("a")
    second, again = cached("a")
    assert builds == [("a",)]
    assert first.to_list() == second.to_list()
    assert first[0] == {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "length": 3}
    assert first.features["input_ids"].feature.dtype == "int32"
    assert counts == again
    assert (counts.tokens, counts.dropped) == (5, {"why not": 1})
    assert len(counts.fingerprint) == 64


def test_any_part_of_the_key_counts(cached, builds):
    cached("ab", "c")
    cached("a", "bc")
    cached("ab", "c", weighted=True)
    cached("ab", "c", overwrite=True)
    assert len(builds) == 4


def test_other_code_makes_other_tokens(cached, builds, monkeypatch):
    cached("a")
    monkeypatch.setattr("ft.data.cache.own_code", lambda: "corrected")
    cached("a")
    assert len(builds) == 2


def test_weights_have_a_column(cached):
    dataset, _ = cached("a", weighted=True)
    assert dataset[1]["loss_weights"] == [0.5, 0.5]


def test_more_rows_than_a_batch_and_none_at_all(cached):
    assert len(cached("many", samples=[(1, 2)] * 2500)[0]) == 2500
    assert len(cached("none", samples=[])[0]) == 0


@pytest.mark.parametrize("name", ["data.arrow", "counts.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_a_damaged_cache_is_made_again(cached, builds, tmp_path, name, harm):
    whole, _ = cached("a")
    rows = whole.to_list()
    [path] = (tmp_path / "c").glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2 if name == "data.arrow" else data.index(b"blake3") + 12] ^= 0x55
    path.unlink()
    if harm != "remove":
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[harm])
    assert cached("a")[0].to_list() == rows
    assert len(builds) == 2


def test_nothing_is_left_of_a_build_that_fails(cached, tmp_path):
    def failing():
        yield (1, 2)
        raise DataError("bad row")

    with pytest.raises(DataError, match="bad row"):
        cached("a", samples=failing())
    assert list((tmp_path / "c").iterdir()) == []


def test_two_processes_may_build_the_same(cached, tmp_path):
    def meanwhile():
        dataset, _ = cached("a")
        [folder] = (path for path in (tmp_path / "c").iterdir() if ".tmp-" not in path.name)
        seen.append((folder.stat().st_ino, dataset))
        yield from ((1, 2, 3), (4, 5))

    seen = []
    dataset, _ = cached("a", samples=meanwhile())
    [folder] = (tmp_path / "c").iterdir()
    assert folder.stat().st_ino == seen[0][0]
    assert dataset.to_list() == seen[0][1].to_list()


def test_a_folder_that_cannot_be_written_is_told(cached, tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(EnvironmentProblem, match="cache_dir"):
        cached("a")


# ---- what the stages call -----------------------------------------------------------------------------------------

CHAT = (Message("user", "Who?"), Message("assistant", "Me."))


@pytest.fixture
def make_run(make_plan, tokenizer):
    def make(**options):
        run = Run(make_plan(**options))
        run.tokenizer, run.template = tokenizer, ChatTemplate(tokenizer)
        return run

    return make


def fingerprint(run, examples, **options):
    counts = DataCounts()
    prepare_supervised(run, examples, counts, **options)
    return counts.fingerprint


def test_supervised_data_is_addressed_by_all_it_depends_on(make_run, tokenizer):
    examples = [Example("here:1", CHAT)]
    plain = fingerprint(make_run(), examples)
    assert plain == fingerprint(make_run(), [Example("elsewhere:9", CHAT)])
    no_thoughts = make_run()
    no_thoughts.template = ChatTemplate(tokenizer, enable_thinking=False)
    more_tokens = make_run()
    other = {
        plain,
        fingerprint(make_run(cutoff_len=9), examples),
        fingerprint(make_run(truncation="left"), examples),
        fingerprint(make_run(), examples, train_on_prompt=True),
        fingerprint(make_run(), [Example("here:1", (*CHAT, *CHAT))]),
        fingerprint(no_thoughts, examples),
    }
    tokenizer.add_tokens(["Who"])
    assert len(other | {fingerprint(more_tokens, examples)}) == 7


def test_overwrite_and_templates_without_a_text_build_anew(make_run, monkeypatch):
    run = make_run(overwrite_cache=True)
    made = []
    render = run.template.render
    monkeypatch.setattr(run.template, "render", lambda *given, **more: made.append(1) or render(*given, **more))
    for _ in range(2):
        fingerprint(run, [Example("x", CHAT)])
    first = len(made)
    run.plan = make_run().plan
    fingerprint(run, [Example("x", CHAT)])
    assert (first, len(made)) == (4, 4)
    run.template.text = None
    fingerprint(run, [Example("x", CHAT)])
    assert len(made) == 6


def test_weights_of_messages_become_a_column(make_run):
    heavy = (CHAT[0], Message("assistant", "Me.", weight=2.0))
    dataset = prepare_supervised(make_run(), [Example("x", CHAT), Example("y", heavy)], DataCounts())
    assert set(dataset[0]["loss_weights"]) == {1.0}
    assert dataset[1]["loss_weights"][-2] == 2.0


def test_tokenized_path_is_where_the_tokens_go(make_run, tmp_path):
    fingerprint(make_run(tokenized_path=str(tmp_path / "tokens")), [Example("x", CHAT)])
    [folder] = (tmp_path / "tokens").iterdir()
    assert json.loads((folder / "counts.json").read_text())["counts"]["tokens"] > 0


def test_workers_without_effect_are_told(make_run):
    run = make_run(preprocessing_num_workers=4)
    fingerprint(run, [Example("x", CHAT)])
    assert "no effect" in run.decisions[0]


def test_text_becomes_blocks_and_conversations_do_not(make_run):
    counts = DataCounts()
    dataset = prepare_text(make_run(cutoff_len=8), [Example("x", text="one two three four five")] * 3, counts)
    assert max(dataset["length"]) == 8
    assert sum(dataset["length"]) == counts.tokens
    with pytest.raises(DataError, match="plain text is needed") as caught:
        prepare_text(make_run(), [Example("f:3", CHAT)], DataCounts())
    assert caught.value.where == "f:3"


def test_no_template_is_told_only_when_one_is_needed(hook, make_plan, make_run, tokenizer):
    from ft.data import template_for

    run = make_run()
    tokenizer.chat_template = None
    run.template = template_for(hook, make_plan(), tokenizer)
    assert len(prepare_text(run, [Example("x", text="one two three")], DataCounts())) == 1
    with pytest.raises(ConfigError, match="template: …"):
        fingerprint(run, [Example("x", CHAT)])
    with pytest.raises(DataError, match="unknown template 'chatlm'"):
        template_for(hook, make_plan(template="chatlm"), tokenizer)
