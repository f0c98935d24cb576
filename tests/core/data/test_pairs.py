from dataclasses import replace
from itertools import chain

import pytest

from ft.data import IGNORE, ChatTemplate, prepare_feedback, prepare_pairs, prepare_prompts
from ft.data.answers import FILLED
from ft.data.asking import EQUAL, SPLIT_PAIR, UNHEEDED
from ft.data.pairs import EMPTY
from ft.data.tokens import TOO_LONG
from ft.errors import ConfigError, DataError
from ft_hookspecs import DataCounts, Example, Message, Run

U, A = (lambda text: Message("user", text)), (lambda text: Message("assistant", text))
PAIR = Example("f:1", (U("Who are you?"),), chosen=(A("A model. Ünïcode 🙂"),), rejected=(A("A person."),))
NO_HEADER = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}<|im_end|>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
TOOLS = (
    "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def run(make_plan, tokenizer):
    def run(template=None, *, max_new_tokens=None, **options):
        plan = make_plan(**{"cutoff_len": 400, **options})
        values = {**plan.values, "max_new_tokens": max_new_tokens}
        found = ChatTemplate(tokenizer, template, name="mine", stop=("<|im_end|>",))
        return Run(replace(plan, values=values), tokenizer=tokenizer, template=found)

    return run


@pytest.fixture
def prepare(run):
    """The rows and the counts that one of the functions makes of examples."""

    def prepare(function, *examples, template=None, **options):
        counts = DataCounts()
        return list(function(run(template, **options), examples, counts)), counts

    return prepare


def learned(tokenizer, labels):
    return tokenizer.decode([label for label in labels if label != IGNORE])


def ids_of(row, side):
    return row["prompt_ids"] + row[f"{side}_ids"]


class TestPairs:
    def test_the_prompt_is_what_inference_gives_and_the_answers_are_learned_with_their_end(self, prepare, tokenizer):
        [row], counts = prepare(prepare_pairs, PAIR)
        dicts = [{"role": "user", "content": "Who are you?"}]
        prompt = tokenizer.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
        for side, answer in (("chosen", "A model. Ünïcode 🙂"), ("rejected", "A person.")):
            whole = [*dicts, {"role": "assistant", "content": answer}]
            assert ids_of(row, side) == tokenizer.apply_chat_template(whole, return_dict=False)
            assert learned(tokenizer, row[f"{side}_labels"]) == answer + "<|im_end|>"
            assert len(row[f"{side}_labels"]) == len(row[f"{side}_ids"])
        assert row["prompt_ids"] == prompt
        assert row["length"] == sum(len(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        assert (counts.tokens, counts.truncated, counts.dropped) == (row["length"], 0, {})
        learnable = chain(row["chosen_labels"], row["rejected_labels"])
        assert counts.supervised == sum(label != IGNORE for label in learnable)

    def test_the_same_beginning_of_both_answers_is_not_the_prompt(self, prepare, tokenizer):
        [row], _ = prepare(prepare_pairs, replace(PAIR, chosen=(A("A person. Hm"),)))
        assert learned(tokenizer, row["chosen_labels"]).startswith("A person")
        assert row["chosen_ids"][0] == row["rejected_ids"][0]

    def test_a_token_across_the_border_of_the_prompt_belongs_to_the_prompt(self, prepare, tokenizer):
        joined = "{% for m in messages %}{{ m.content }}{% endfor %}"  # "t" + "he" is one token, "t" + "z" is two
        pair = Example("f:1", (U("Is it t"),), chosen=(A("he fox"),), rejected=(A("zoo"),))
        [row], _ = prepare(prepare_pairs, pair, template=joined)
        assert tokenizer.decode(ids_of(row, "chosen")) == "Is it the fox"
        assert tokenizer.decode(ids_of(row, "rejected")) == "Is it tzoo"
        assert tokenizer.decode(row["prompt_ids"]) == "Is it"
        assert row["chosen_labels"][0] == row["rejected_labels"][0] == IGNORE
        assert learned(tokenizer, row["rejected_labels"]) == "zoo"

    def test_of_an_answer_with_tool_results_only_the_assistant_is_learned(self, prepare, tokenizer):
        call = {"type": "function", "function": {"name": "clock", "arguments": {}}}
        answer = (Message("assistant", "", (call,)), Message("tool", "12:00"), A("Noon."))
        [row], _ = prepare(prepare_pairs, replace(PAIR, chosen=answer), template=TOOLS)
        assert learned(tokenizer, row["chosen_labels"]) == "<call>clock</call><|im_end|>Noon.<|im_end|>"
        assert "12:00" in tokenizer.decode(row["chosen_ids"])

    def test_history_and_thoughts_in_the_prompt_are_rendered_as_inference_does(self, prepare, tokenizer):
        forgetful = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}[hm]"
            "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        pair = replace(PAIR, messages=(U("a"), A("b"), U("c")))
        [row], _ = prepare(prepare_pairs, pair, template=forgetful)
        assert "[hm]" not in tokenizer.decode(row["prompt_ids"])
        assert learned(tokenizer, row["rejected_labels"]) == "[hm]A person.<|im_end|>"

    def test_equal_and_empty_answers_are_dropped_and_counted(self, prepare):
        equal = replace(PAIR, rejected=PAIR.chosen)
        empty = replace(PAIR, rejected=(A(" "),))
        rows, counts = prepare(prepare_pairs, PAIR, equal, empty, equal)
        assert len(rows) == 1
        assert counts.dropped == {EQUAL: 2, EMPTY: 1}

    def test_marks_of_single_messages_are_not_heeded_and_counted(self, prepare, tokenizer):
        marked = replace(PAIR, chosen=(replace(PAIR.chosen[0], weight=0.5, train=False),))
        [row], counts = prepare(prepare_pairs, marked)
        assert learned(tokenizer, row["chosen_labels"]).startswith("A model")
        assert counts.repaired == {UNHEEDED: 1}


class TestTooLong:
    def shares(self, row):
        return tuple(len(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))

    @pytest.mark.parametrize("truncation", ["proportional", "left", "right"])
    def test_both_sides_keep_the_same_shorter_prompt(self, prepare, tokenizer, truncation):
        long = replace(PAIR, messages=(U("one two three four five " * 40),), chosen=(A("six seven " * 10),))
        [row], counts = prepare(prepare_pairs, long, cutoff_len=80, truncation=truncation, reserved_label_len=3)
        assert counts.truncated == 1
        assert max(len(ids_of(row, "chosen")), len(ids_of(row, "rejected"))) <= 80
        assert len(ids_of(row, "chosen")) > 70
        text = tokenizer.decode(ids_of(row, "chosen"))
        assert text.startswith("<|im_start|>user\n")
        assert text.count("<|im_end|>\n") == 2
        whole = truncation == "left"
        assert (learned(tokenizer, row["chosen_labels"]) == "six seven " * 10 + "<|im_end|>") is whole
        assert len(row["rejected_labels"]) - row["rejected_labels"].count(IGNORE) >= 3

    def test_an_answer_that_is_longer_decides(self, prepare, tokenizer):
        long = replace(PAIR, rejected=(A("six seven " * 100),))
        [row], _ = prepare(prepare_pairs, long, cutoff_len=60)
        assert tokenizer.decode(row["prompt_ids"]).count("Who are you?") == 1
        assert learned(tokenizer, row["chosen_labels"]) == PAIR.chosen[0].content + "<|im_end|>"
        assert len(ids_of(row, "rejected")) <= 60

    def test_left_drops_the_first_rounds_and_keeps_the_system_message(self, prepare, tokenizer):
        history = [turn for n in range(9) for turn in (U(f"question {n} " * 3), A(f"answer {n}"))]
        pair = replace(PAIR, messages=(Message("system", "Be brief."), *history, U("And now?")))
        [row], _ = prepare(prepare_pairs, pair, cutoff_len=120, truncation="left")
        text = tokenizer.decode(row["prompt_ids"])
        assert text.startswith("<|im_start|>system\nBe brief.")
        assert "answer 0" not in text
        assert "answer 8" in text
        assert "And now?" in text
        assert len(ids_of(row, "chosen")) > 90

    @pytest.mark.parametrize("truncation", ["proportional", "right"])
    def test_no_turn_of_the_prompt_is_lost(self, prepare, tokenizer, truncation):
        pair = replace(PAIR, messages=(U("one two " * 30), A("three four " * 30), U("five six " * 30)))
        [row], _ = prepare(prepare_pairs, pair, cutoff_len=120, truncation=truncation, reserved_label_len=5)
        text = tokenizer.decode(row["prompt_ids"])
        assert [text.count(word) > 0 for word in ("one", "three", "five")] == [True] * 3

    def test_what_cannot_be_cut_is_dropped(self, prepare):
        long = replace(PAIR, messages=(U("one two three " * 90),))
        for truncation, reason in (("drop", TOO_LONG), ("proportional", FILLED), ("left", FILLED)):
            options = {"cutoff_len": 20, "truncation": truncation, "reserved_label_len": 15}
            rows, counts = prepare(prepare_pairs, long, **options)
            assert (rows, counts.dropped) == ([], {reason: 1})

    def test_answers_that_are_equal_once_cut_are_dropped(self, prepare):
        pair = Example("f:1", (U("Q"),), chosen=(A("one two " * 50 + "a"),), rejected=(A("one two " * 50 + "b"),))
        rows, counts = prepare(prepare_pairs, pair, cutoff_len=60)
        assert (rows, counts.dropped) == ([], {EQUAL + " within cutoff_len": 1})

    def test_reserved_tokens_of_the_answer_are_kept(self, prepare, tokenizer):
        long = replace(PAIR, messages=(U("one two three four five " * 90),), chosen=(A("six seven eight nine ten"),))
        counted = []
        for reserved in (1, 6):
            [row], _ = prepare(prepare_pairs, long, cutoff_len=60, reserved_label_len=reserved, truncation="right")
            counted.append(len(row["chosen_labels"]) - row["chosen_labels"].count(IGNORE))
        assert counted[0] < counted[1]
        assert counted[1] > 6


class TestTemplates:
    def test_without_a_generation_prompt_it_is_refused(self, prepare):
        for function, example in ((prepare_pairs, PAIR), (prepare_prompts, replace(PAIR, chosen=(), rejected=()))):
            with pytest.raises(DataError, match=r"chat template \(mine\) has no generation prompt\n  where: f:1"):
                prepare(function, example, template=NO_HEADER)
            with pytest.raises(DataError, match="has no generation prompt"):
                prepare(function, example, template=NO_HEADER, on_bad_row="skip")

    def test_a_template_whose_answers_have_no_header_is_fine(self, prepare, tokenizer):
        [row], _ = prepare(prepare_pairs, PAIR, template=BRACKETS)
        assert tokenizer.decode(row["prompt_ids"]).startswith("[INST] Who are you? [/INST]")
        assert learned(tokenizer, row["rejected_labels"]).strip() == "A person.<|im_end|>"

    def test_one_that_hides_where_the_answer_begins_is_refused_with_the_place(self, prepare):
        odd = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
        with pytest.raises(DataError, match="does not show where message 2 begins") as caught:
            prepare(prepare_pairs, PAIR, template=odd + "{% if add_generation_prompt %}>{% endif %}")
        assert caught.value.where == "f:1"
        rows, counts = prepare(
            prepare_pairs, PAIR, template=odd + "{% if add_generation_prompt %}>{% endif %}", on_bad_row="skip"
        )
        assert (rows, sum(counts.dropped.values())) == ([], 1)


class TestFeedback:
    def test_a_judged_answer(self, prepare, tokenizer):
        good = Example("f:1", (U("Q"), A("old"), U("Who?"), A("Me.")), desirable=True)
        rows, counts = prepare(prepare_feedback, good, replace(good, desirable=False))
        assert [row["desirable"] for row in rows] == [True, False]
        assert learned(tokenizer, rows[0]["answer_labels"]) == "Me.<|im_end|>"
        assert tokenizer.decode(rows[0]["prompt_ids"]).endswith("Who?<|im_end|>\n<|im_start|>assistant\n")
        assert rows[0]["length"] == len(ids_of(rows[0], "answer"))
        assert counts.repaired == {}

    def test_a_pair_gives_one_of_each_and_says_so(self, prepare, tokenizer):
        rows, counts = prepare(prepare_feedback, PAIR)
        assert [(row["desirable"], learned(tokenizer, row["answer_labels"])) for row in rows] == [
            (True, "A model. Ünïcode 🙂<|im_end|>"),
            (False, "A person.<|im_end|>"),
        ]
        assert counts.repaired == {SPLIT_PAIR: 1}

    def test_equal_sides_are_no_judgement(self, prepare):
        rows, counts = prepare(prepare_feedback, replace(PAIR, rejected=PAIR.chosen), PAIR)
        assert len(rows) == 2
        assert (counts.dropped, counts.repaired) == ({EQUAL: 1}, {SPLIT_PAIR: 1})


class TestPrompts:
    def test_they_end_where_an_answer_begins(self, prepare, tokenizer):
        judged = Example("f:1", (U("Q"), A("old"), U("Who?"), A("Me.")))
        alone = Example("f:2", (U("Who?"),))
        rows, counts = prepare(prepare_prompts, judged, alone, PAIR)
        assert [row["answer"] for row in rows] == ["Me.", "", PAIR.chosen[0].content]
        assert all(row["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n") for row in rows)
        assert [tokenizer.decode(row["prompt_ids"]) for row in rows] == [row["prompt"] for row in rows]
        assert counts.tokens == sum(row["length"] for row in rows)
        assert counts.supervised == 0

    @pytest.mark.parametrize("truncation", ["proportional", "left", "right"])
    @pytest.mark.parametrize(("max_new_tokens", "longest"), [(None, 50), (30, 70)])
    def test_room_is_left_for_the_answer(self, prepare, truncation, max_new_tokens, longest):
        options = {"cutoff_len": 100, "max_new_tokens": max_new_tokens, "truncation": truncation}
        [row], counts = prepare(prepare_prompts, Example("f:1", (U("one two three " * 99),)), **options)
        assert longest - 5 <= row["length"] <= longest
        assert counts.truncated == 1

    def test_no_room_for_a_prompt_is_a_wrong_configuration(self, prepare):
        with pytest.raises(ConfigError, match="max_new_tokens 100 leaves no room for a prompt in cutoff_len 100"):
            prepare(prepare_prompts, PAIR, cutoff_len=100, max_new_tokens=100)


@pytest.mark.parametrize(
    ("function", "example", "said", "hint"),
    [
        (prepare_pairs, Example("f:7", (U("Q"), A("R"))), "no chosen and no rejected answer", "ranking: true"),
        (prepare_pairs, replace(PAIR, where="f:7", rejected=()), "no rejected answer", "ranking: true"),
        (prepare_pairs, Example("f:7", text="plain"), "no chosen and no rejected answer", "ranking: true"),
        (prepare_feedback, Example("f:7", (U("Q"), A("R"))), "does not say whether its answer is good", "kto_tag"),
        (prepare_feedback, Example("f:7", (U("Q"),), desirable=True), "has no answer", "kto_tag"),
        (prepare_feedback, Example("f:7", text="plain", desirable=True), "plain text", "dataset_info.json"),
        (prepare_prompts, Example("f:7", text="plain"), "plain text", "dataset_info.json"),
    ],
)
def test_data_of_another_kind_is_refused_with_what_is_needed(prepare, function, example, said, hint):
    with pytest.raises(DataError, match=said) as caught:
        prepare(function, example)
    assert caught.value.where == "f:7"
    assert hint in caught.value.remedy
    rows, counts = prepare(function, example, replace(PAIR, where="f:8"), on_bad_row="skip")
    assert len(rows) >= 1
    assert sum(counts.dropped.values()) == 1


def test_the_cache_tells_answers_apart(prepare):
    [first], _ = prepare(prepare_pairs, PAIR)
    [again], _ = prepare(prepare_pairs, replace(PAIR, where="elsewhere:9"))
    [other], _ = prepare(prepare_pairs, replace(PAIR, rejected=(A("Another."),)))
    assert first == again
    assert other["chosen_ids"] == first["chosen_ids"]
    assert other["rejected_ids"] != first["rejected_ids"]
