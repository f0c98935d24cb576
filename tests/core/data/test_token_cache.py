import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ft.data import (
    ChatTemplate,
    Examples,
    Supervisor,
    cache,
    cached_dataset,
    load_splits,
    prepare_supervised,
    prepare_text,
)
from ft.data.cache import Identity, Making
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

        columns = {**COLUMNS, "loss_weights": "list<float32>"} if weighted else COLUMNS
        making = Making(build, columns, Identity("data", repr((key, weighted)), cache.own_code()))
        dataset = cached_dataset(making, tmp_path / "c", counts, overwrite=overwrite)
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
    render = run.template.render_batch
    monkeypatch.setattr(run.template, "render_batch", lambda given: made.append(1) or render(given))
    for _ in range(2):
        fingerprint(run, [Example("x", CHAT)])
    first = len(made)
    run.plan = make_run().plan
    fingerprint(run, [Example("x", CHAT)])
    assert (first, len(made)) == (2, 2)
    run.template.text = None
    for _ in range(2):
        fingerprint(run, [Example("x", CHAT)])
    assert len(made) == 4


def test_weights_of_messages_become_a_column(make_run):
    heavy = (CHAT[0], Message("assistant", "Me.", weight=2.0))
    dataset = prepare_supervised(make_run(), [Example("x", CHAT), Example("y", heavy)], DataCounts())
    assert set(dataset[0]["loss_weights"]) == {1.0}
    assert dataset[1]["loss_weights"][-2] == 2.0


# ---- tokenized_path -----------------------------------------------------------------------------------------------


@pytest.fixture
def keep(make_run, tmp_path):
    def keep(*messages, run=None, **options):
        run = run or make_run(tokenized_path=str(tmp_path / "kept"), **options)
        counts = DataCounts()
        given = Examples.of([Example("x", messages)]) if messages else Examples(lambda: iter(()), None)
        return prepare_supervised(run, given, counts), counts, run

    return keep


def test_tokenized_path_is_written_once_and_then_loaded(keep, tmp_path, monkeypatch):
    first, counts, _ = keep(*CHAT)
    assert json.loads((tmp_path / "kept" / "train" / "counts.json").read_text())["counts"]["tokens"] > 0
    monkeypatch.setattr(Supervisor, "__call__", lambda *_: pytest.fail("tokenised again"))
    for messages in (CHAT, ()):  # also when the data itself is no longer there
        again, recounted, _ = keep(*messages)
        assert again.to_list() == first.to_list()
        assert (recounted.tokens, recounted.fingerprint) == (counts.tokens, counts.fingerprint)
    assert (recounted.rows, recounted.examples) == (1, 1)


@pytest.mark.parametrize(
    ("messages", "options", "why"),
    [
        ((*CHAT, *CHAT), {}, "other data"),
        (CHAT, {"cutoff_len": 77}, "another template, tokenizer or option"),
        ((), {"cutoff_len": 77}, "another template, tokenizer or option"),
    ],
)
def test_tokens_of_other_data_or_another_template_are_refused(keep, messages, options, why):
    keep(*CHAT)
    with pytest.raises(DataError, match=f"(?s){why}.*overwrite_cache"):
        keep(*messages, **options)


def test_a_seed_that_decides_nothing_makes_no_other_tokens(hook, rows, make_plan, make_run):
    rows.rows = [{"q": f"question {n}", "a": f"answer {n}"} for n in range(6)]

    def kept(seed, **options):
        plan = make_plan(dataset=["a/x", "a/y"], **options)
        plan = replace(plan, values={**plan.values, "seed": seed})
        return [fingerprint(make_run(), examples) for _, examples, _ in load_splits(hook, plan)]

    assert kept(1) == kept(2)
    assert kept(1, mix_strategy="interleave_under") == kept(2, mix_strategy="interleave_under") != kept(1)
    for options in ({"val_size": 2}, {"mix_strategy": "interleave_under", "interleave_probs": [0.5, 0.5]}):
        assert kept(1, **options) != kept(2, **options)


def test_another_template_or_tokenizer_is_refused(keep, make_run, tmp_path, tokenizer):
    keep(*CHAT)
    run = make_run(tokenized_path=str(tmp_path / "kept"))
    run.template = ChatTemplate(tokenizer, enable_thinking=False)
    with pytest.raises(DataError, match="another template"):
        keep(*CHAT, run=run)
    tokenizer.add_tokens(["Who"])
    with pytest.raises(DataError, match="tokenizer"):
        keep(*CHAT)


def test_overwrite_cache_writes_it_anew_and_never_what_is_not_ours(keep, tmp_path):
    keep(*CHAT)
    assert len(keep(*CHAT, *CHAT, overwrite_cache=True)[0][0]["labels"]) > len(CHAT)
    counts = tmp_path / "kept" / "train" / "counts.json"
    counts.unlink()
    (tmp_path / "kept" / "train" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        keep(*CHAT, overwrite_cache=True)
    assert (tmp_path / "kept" / "train" / "thesis.txt").exists()


def test_damaged_tokens_and_those_of_another_version(keep, tmp_path, monkeypatch):
    keep(*CHAT)
    monkeypatch.setattr("ft.data.prepare.own_code", lambda: "newer")
    assert "another version of ft" in keep(*CHAT)[2].decisions[0]
    with (tmp_path / "kept" / "train" / "data.arrow").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="not as it was written"):
        keep(*CHAT)


# ---- workers and text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_are_the_same_whatever_the_number_of_workers(make_run, workers, monkeypatch):
    examples = [
        Example(f"f:{n}", (Message("user", f"Who is {n}?"), Message("assistant", "Me. " * n))) for n in range(40)
    ]
    pids = set()
    supervise = Supervisor.__call__

    def watched(self, batch, counts):
        counts.repaired[f"in process {os.getpid()}"] = 1
        return supervise(self, batch, counts)

    def made(**options):
        run = make_run(preprocessing_batch_size=7, overwrite_cache=True, cutoff_len=60, **options)
        counts = DataCounts()
        prepare_supervised(run, examples, counts)
        pids.update(name for name in counts.repaired if name.startswith("in process"))
        counts.repaired.clear()
        [folder] = (Path(run.plan.get("cache_dir")) / "tokens").iterdir()
        return (folder / "data.arrow").read_bytes(), counts

    monkeypatch.setattr(Supervisor, "__call__", watched)
    assert made() == made(preprocessing_num_workers=workers)
    assert len(pids) > 1


def test_an_error_in_a_worker_is_the_error_of_the_run(make_run):
    run = make_run(preprocessing_num_workers=2, preprocessing_batch_size=1)
    with pytest.raises(DataError, match="plain text where a conversation") as caught:
        fingerprint(run, [Example("f:1", CHAT), Example("f:2", text="x"), Example("f:3", CHAT)])
    assert caught.value.where == "f:2"


def test_a_worker_that_is_killed_is_told(make_run, monkeypatch):
    monkeypatch.setattr(Supervisor, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    run = make_run(preprocessing_num_workers=2, preprocessing_batch_size=1)
    with pytest.raises(EnvironmentProblem, match="ended from outside"):
        fingerprint(run, [Example("f:1", CHAT)] * 3)


def test_an_interrupt_is_heeded_by_the_first_process_alone(make_run, monkeypatch):
    """Ctrl-C reaches them all, and each would print where it was."""
    encode, first = Supervisor.__call__, os.getpid()

    def interrupted(self, examples, counts):
        if os.getpid() != first:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(self, examples, counts)

    monkeypatch.setattr(Supervisor, "__call__", interrupted)
    run = make_run(preprocessing_num_workers=2, preprocessing_batch_size=1)
    assert len(prepare_supervised(run, [Example("f:1", CHAT)] * 3, DataCounts())) == 3


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
