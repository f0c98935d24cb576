"""`ft data check` and `ft data preview` from the words to what is printed, over the built-in formats."""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ft.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

GOOD = {"instruction": "Who are you?", "output": "A model."}
PAIR = {"prompt": "Who are you?", "chosen": "A model. 🙂", "rejected": "A person."}
STAGE = """
from ft.data import {function}
from ft_hookspecs import hookimpl

ft_api_version = 1


@hookimpl
def ft_prepare_dataset(run, examples, counts):
    return {function}(run, examples, counts)
"""
OWN_COLUMNS = """
from ft_hookspecs import hookimpl

ft_api_version = 1


@hookimpl
def ft_prepare_dataset(run, examples, counts):
    from datasets import Dataset

    return Dataset.from_dict({"query_ids": [[76, 92]], "score": [0.5], "note": ["x" * 500 + "\\x1b[31m"]})
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "model").symlink_to(tiny_model_dir)
    for name in ("pairs", "feedback", "prompts"):
        (tmp_path / f"{name}.py").write_text(STAGE.format(function=f"prepare_{name}"))
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., None]:
    def write(name: str, *rows: Any) -> None:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))

    return write


def ft(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", *words])


MODEL = "model_name_or_path=./model"


class TestCheck:
    def test_all_problems_of_all_data_sets_with_their_places(self, write: Any, folder: Path) -> None:
        write("a.jsonl", GOOD, {**GOOD, "output": 3}, '{"instruction": ', {**GOOD, "output": ""}, GOOD)
        write("b.jsonl", {**GOOD, "output": None}, GOOD)
        write("config.yaml", "dataset: a.jsonl,nowhere.jsonl", "eval_dataset: b.jsonl", "output_dir: .")
        result = ft("check", "config.yaml", "dataset=a.jsonl")
        assert result.exit_code == 4, result.output
        for place in ("a.jsonl:2: 'output' is a number: 3", "a.jsonl:3", "a.jsonl:4: empty target", "b.jsonl:1"):
            assert place in result.stdout
        assert "dataset: a.jsonl: 5 rows, 2 usable" in result.stdout
        assert "eval_dataset: b.jsonl: 2 rows, 1 usable" in result.stdout
        assert "a text is needed (2)" in result.stdout
        assert "4 problems" in result.stdout
        broken = ft("check", "config.yaml")
        assert broken.exit_code == 4
        assert "'nowhere.jsonl' does not exist" in broken.stdout
        assert "b.jsonl:1" in broken.stdout

    def test_a_few_of_a_kind_are_shown_and_all_are_counted(self, write: Any) -> None:
        write("a.jsonl", GOOD, *({**GOOD, "output": n} for n in range(8)))
        result = ft("check", "a.jsonl")
        assert result.stdout.count("is a number") == 5
        assert "a text is needed (8)" in result.stdout
        assert "… and 3 more; --all shows them" in result.stdout
        assert ft("check", "a.jsonl", "--all").stdout.count("is a number") == 8
        described = json.loads(ft("check", "a.jsonl", "--json", "--all").stdout)
        [problem] = described["problems"]
        assert (problem["count"], problem["rows"][7]["where"]) == (8, "a.jsonl:9")
        [data] = described["datasets"]
        assert (data["key"], data["name"], data["rows"], data["usable"]) == ("dataset", "a.jsonl", 9, 1)

    def test_what_the_stage_drops_and_cuts_is_counted_and_no_problem(self, write: Any) -> None:
        write("a.jsonl", PAIR, {**PAIR, "rejected": PAIR["chosen"]}, {**PAIR, "prompt": "one two three " * 200})
        result = ft("check", "a.jsonl", MODEL, "stage=./pairs.py", "cutoff_len=80")
        assert result.exit_code == 0, result.output
        assert "1 cut, 1 dropped (chosen and rejected are equal)" in result.stdout
        assert "no problems" in result.stdout
        splits = json.loads(ft("check", "a.jsonl", MODEL, "stage=./pairs.py", "--json").stdout)["splits"]
        assert splits["train"]["dropped"] == {"chosen and rejected are equal": 1}

    def test_what_only_the_stage_refuses_has_its_place_too(self, write: Any) -> None:
        write("a.jsonl", PAIR, {"prompt": "Q", "completion": "R"}, {"prompt": "Q"}, GOOD)
        write("b.jsonl", GOOD, GOOD)
        result = ft("check", "b.jsonl", MODEL, "stage=./pairs.py")
        assert result.exit_code == 4, result.output
        assert "b.jsonl:1: the row has no chosen and no rejected answer" in result.stdout
        assert "b.jsonl:2: the row has no chosen and no rejected answer" in result.stdout
        assert "ranking: true" in result.stdout
        assert "no training samples are left" in result.stdout

    def test_a_bad_row_is_one_problem_although_it_is_read_again_for_the_stage(self, write: Any) -> None:
        write("a.jsonl", PAIR, {**PAIR, "chosen": 3}, PAIR)
        result = ft("check", "a.jsonl", MODEL, "stage=./pairs.py")
        assert result.exit_code == 4
        assert "a text is needed (1)" in result.stdout
        assert result.stdout.endswith("\n1 problem\n")
        assert "train (stage ./pairs.py): 2 examples of 3 rows" in result.stdout

    @pytest.mark.parametrize(
        ("content", "code", "said"),
        [
            (json.dumps([GOOD]), 0, "1 rows, 1 usable"),
            ("\ufeff" + f"{json.dumps(GOOD)}\r\n\r\n" * 2, 0, "2 rows, 2 usable"),
            ("", 4, "the data file is empty"),
            (json.dumps({"dataset": "b.jsonl"}), 0, "b.jsonl: 1 rows"),
            (json.dumps({"dataset": "b.jsonl"}, indent=1), 0, "b.jsonl: 1 rows"),
            ("42\n43", 2, "malformed JSON"),
        ],
    )
    def test_a_json_file_is_data_unless_it_is_a_single_object(
        self, write: Any, folder: Path, content: str, code: int, said: str
    ) -> None:
        write("b.jsonl", GOOD)
        (folder / "a.json").write_bytes(content.encode())
        result = ft("check", "a.json")
        assert result.exit_code == code, result.output
        assert said in result.output

    def test_each_split_is_judged_as_what_it_is(self, write: Any) -> None:
        judged = [{"prompt": "Q", "completion": "R", "label": label} for label in (True, True, False)]
        write("both.jsonl", *judged)
        write("good.jsonl", *judged[:2])
        words = (MODEL, "stage=kto")
        assert ft("check", "both.jsonl", "eval_dataset=good.jsonl", *words).exit_code == 0
        refused = ft("check", "good.jsonl", "eval_dataset=both.jsonl", *words)
        assert refused.exit_code == 4
        assert "every answer to learn from is marked good" in refused.stdout

    def test_rows_alone_need_no_model(self, write: Any, folder: Path) -> None:
        write("a.jsonl", GOOD)
        result = ft("check", "a.jsonl")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "rows only" in result.stdout
        (folder / "a.json").write_text(json.dumps([GOOD, GOOD]))
        assert "2 rows, 2 usable" in ft("check", "a.json").stdout
        assert not (folder / "cache" / "tokens").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [("", "is empty"), ("\n\n", "is empty"), ('{"question": 1}', "no format fits"), ("{\0}", "malformed JSON")],
    )
    def test_a_file_that_is_broken_as_a_whole(self, folder: Path, content: str, said: str) -> None:
        (folder / "a.jsonl").write_text(content)
        result = ft("check", "a.jsonl", MODEL)
        assert result.exit_code == 4
        assert said in result.stdout
        assert "a.jsonl:1" in result.stdout

    def test_other_errors_keep_their_code_and_come_after_what_was_found(self, write: Any) -> None:
        write("a.jsonl", GOOD, {"instruction": "Q"})
        result = ft("check", "a.jsonl", "model_name_or_path=./nowhere")
        assert result.exit_code == 2
        assert "a.jsonl:2: no column 'output'" in result.stdout
        assert "./nowhere" in result.stderr
        assert ft("check", "cutoff_len=0").exit_code == 2
        nothing = ft("check", MODEL)
        assert nothing.exit_code == 2
        assert "no data set is named" in nothing.stderr


class TestPreview:
    def test_without_colour_what_is_learned_stands_in_brackets(self, write: Any, folder: Path) -> None:
        write("a.jsonl", *[{**PAIR, "chosen": "A model.\u001b[31m 🙂", "rejected": "A person.\u202e"}] * 4)
        result = ft("preview", "a.jsonl", MODEL, "stage=./pairs.py", "--rows", "2")
        assert result.exit_code == 0, result.output
        prompt = "prompt:\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
        assert prompt + "chosen:\n⟦A model.␛[31m 🙂<|im_end|>⟧\nrejected:\n⟦A person.�<|im_end|>⟧\n" in result.stdout
        assert not {"\u001b", "\u202e"} & set(result.stdout)
        assert result.stdout.count("chosen:") == 2
        assert "2 examples" in result.stdout
        assert not (folder / "cache" / "tokens").exists()

    def test_the_tag_of_a_judged_answer(self, write: Any) -> None:
        rows = ({"prompt": "Q", "completion": "R", "label": label} for label in (True, False))
        write("a.jsonl", *rows)
        shown = ft("preview", "a.jsonl", MODEL, "stage=./feedback.py").stdout
        assert "learned, desirable" in shown
        assert "learned, undesirable" in shown
        assert "⟦R<|im_end|>⟧" in shown

    @pytest.mark.parametrize("rows", ["1", "2", "9"])
    def test_the_first_rows_need_not_be_of_both_kinds(self, write: Any, rows: str) -> None:
        write("a.jsonl", *({"prompt": "Q", "completion": "R", "label": label} for label in (True, True, False)))
        result = ft("preview", "a.jsonl", "eval_dataset=a.jsonl", MODEL, "stage=kto", "--rows", rows)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("learned, desirable") == 2 * min(int(rows), 2)

    def test_prompts_and_their_own_answers(self, write: Any) -> None:
        write("a.jsonl", {"prompt": "Q", "completion": "R"})
        shown = ft("preview", "a.jsonl", MODEL, "stage=./prompts.py").stdout
        assert "0 learned" in shown
        assert "answer: R" in shown
        assert "⟦" not in shown

    def test_columns_of_another_stage_are_shown_as_they_are(self, write: Any, folder: Path) -> None:
        write("a.jsonl", GOOD)
        (folder / "own.py").write_text(OWN_COLUMNS)
        shown = ft("preview", "a.jsonl", MODEL, "stage=./own.py").stdout
        assert "score: 0.5" in shown
        assert "… (505 characters)" in shown
        assert "iy" in shown

    def test_json_holds_every_token(self, write: Any) -> None:
        write("a.jsonl", PAIR)
        described = json.loads(ft("preview", "a.jsonl", MODEL, "stage=./pairs.py", "--json").stdout)
        [sample] = described["samples"]
        assert set(sample["parts"]) == {"prompt", "chosen", "rejected"}
        chosen = sample["parts"]["chosen"]
        assert "".join(piece["text"] for piece in chosen) == "A model. 🙂<|im_end|>\n"
        assert [piece["learned"] for piece in chosen] == [True] * (len(chosen) - 1) + [False]
        assert described["counts"][0]["examples"] == 1

    def test_a_bad_row_or_a_missing_model_is_an_error(self, write: Any) -> None:
        write("a.jsonl", GOOD, {"instruction": "Q"})
        assert ft("preview", "a.jsonl", MODEL).exit_code == 4
        missing = ft("preview", "a.jsonl")
        assert missing.exit_code == 2
        assert "give model_name_or_path" in missing.stderr

    @pytest.mark.parametrize(("width", "beside"), [("120", True), ("80", False)])
    @pytest.mark.parametrize("colour", [True, False])
    def test_a_terminal(
        self, write: Any, monkeypatch: pytest.MonkeyPatch, width: str, beside: bool, colour: bool
    ) -> None:
        from ft.cli.data_preview import show

        write("a.jsonl", PAIR)
        monkeypatch.setenv("COLUMNS", width)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("NO_COLOR", "" if colour else "1")
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        show(["a.jsonl", MODEL, "stage=./pairs.py"], None, None, size=1, as_json=False)
        text = screen.getvalue()
        assert any("chosen" in line and "rejected" in line for line in text.splitlines()) is beside
        assert ("\x1b[32m" in text) is colour
        assert ("⟦A model. 🙂<|im_end|>⟧" in text) is not colour


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True
