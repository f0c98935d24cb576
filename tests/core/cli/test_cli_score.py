"""``ft score``: a saved reward model on the command line says what its own run said, and errors say what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from ft import lifecycle
from ft.cli import app
from ft.planning import make_plan
from ft.testing import save_tiny_model

PAIRS = [
    {"prompt": "What colour is stone a?", "chosen": "It is red.", "rejected": "I cannot say."},
    {"prompt": "And stone b, what of it?", "chosen": "Blue.", "rejected": "It is late, ask me about stone b again."},
    {"prompt": "Stone c?", "chosen": "Stone c is green.", "rejected": "No."},
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a model, and the reward models ``lora`` and ``full`` that were trained from it."""
    folder = tmp_path_factory.mktemp("rewards")
    save_tiny_model(folder / "base")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    keys = {
        "stage": "rm",
        "model_name_or_path": folder / "base",
        "dataset": folder / "pairs.jsonl",
        "eval_dataset": folder / "pairs.jsonl",
        "cache_dir": folder / "cache",
        "max_steps": 3,
        "learning_rate": 1e-3,
        "do_train": "true",
        "do_predict": "true",
        "use_cpu": "true",
    }
    for tuning in ("lora", "full"):
        own = {"finetuning_type": tuning, "output_dir": folder / tuning, "bf16": "false"}
        lifecycle.run(*make_plan(None, [f"{key}={value}" for key, value in {**keys, **own}.items()]))
    return folder


def predicted(folder) -> list[float]:
    lines = (folder / "generated_predictions.jsonl").read_text().splitlines()
    return [json.loads(line)[side] for line in lines for side in ("chosen", "rejected")]


def as_lines(shape: str) -> list[dict]:
    answers = [(pair["prompt"], pair[side]) for pair in PAIRS for side in ("chosen", "rejected")]
    if shape == "prompts":
        return [{"prompt": prompt, "answer": answer, "id": number} for number, (prompt, answer) in enumerate(answers)]
    roles = ("user", "assistant")
    return [{"messages": [{"role": r, "content": c} for r, c in zip(roles, each, strict=True)]} for each in answers]


def scores(result) -> list[float]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["score"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("shape", ["prompts", "messages"])
def test_lines_are_scored_in_order_as_in_the_models_own_run(ft, workplace, tmp_path, tuning, shape):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n\n".join(map(json.dumps, as_lines(shape))) + "\n")
    result = ft("score", str(workplace / tuning), str(path), "bf16=false")
    assert scores(result) == pytest.approx(predicted(workplace / tuning), rel=1e-4, abs=2e-5)
    assert [{k: v for k, v in json.loads(line).items() if k != "score"} for line in result.stdout.splitlines()] == (
        as_lines(shape)
    )
    assert ft("score", str(workplace / tuning), str(path), "bf16=false").stdout == result.stdout


def test_one_answer_and_standard_input(ft, workplace):
    one = {"prompt": PAIRS[0]["prompt"], "answer": PAIRS[0]["chosen"]}
    words = ["score", str(workplace / "lora"), "bf16=false"]
    typed = ft(*words, "--prompt", one["prompt"], "--answer", one["answer"])
    assert scores(typed) == pytest.approx(predicted(workplace / "lora")[:1], rel=1e-4)
    piped = CliRunner().invoke(app, [*words, "-"], input=json.dumps(one), prog_name="ft")
    assert piped.stdout == typed.stdout


def test_base_and_adapter_may_be_named_apart(ft, workplace):
    words = ["--prompt", PAIRS[0]["prompt"], "--answer", PAIRS[0]["chosen"], "bf16=false"]
    apart = ft("score", str(workplace / "base"), "--adapter", str(workplace / "lora"), *words)
    assert scores(apart) == scores(ft("score", str(workplace / "lora"), *words))


def test_the_template_is_the_one_it_was_trained_with(ft, workplace):
    words = ["score", str(workplace / "lora"), "--prompt", "a?", "--answer", "b", "bf16=false"]
    assert scores(ft(*words)) != scores(ft(*words, "template=llama3"))


def broken(workplace, tmp_path, tuning="lora"):
    return shutil.copytree(workplace / tuning, tmp_path / "broken")


def test_a_base_that_is_gone(ft, workplace, tmp_path):
    folder = broken(workplace, tmp_path)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["model_name_or_path"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record))
    result = ft("score", str(folder), "--prompt", "a", "--answer", "b")
    assert result.exit_code == 2
    assert f"the model '{tmp_path / 'gone'}' does not exist" in result.stderr
    elsewhere = ft("score", str(folder), f"model_name_or_path={workplace / 'base'}", "--prompt", "a", "--answer", "b")
    assert elsewhere.exit_code == 0, elsewhere.stderr


def test_a_template_that_is_missing(ft, workplace, tmp_path):
    folder = broken(workplace, tmp_path, "full")
    for name in ("chat_template.jinja",):
        (folder / name).unlink()
    result = ft("score", str(folder), "--prompt", "a", "--answer", "b")
    assert result.exit_code == 2
    assert "no chat template" in result.stderr
    assert "template: …" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere", "--prompt", "a", "--answer", "b"], 2, "does not exist"),
        (["{base}", "--prompt", "a", "--answer", "b"], 4, "value_head.safetensors is missing"),
        (["{lora}"], 2, "give exactly one thing to score"),
        (["{lora}", "--prompt", "a"], 2, "give exactly one thing to score"),
        (["{lora}", "answers.jsonl", "--prompt", "a", "--answer", "b"], 2, "give exactly one thing to score"),
        (["{lora}", "nothing.jsonl"], 4, "does not exist"),
        (["{lora}", "wordy=1", "--prompt", "a", "--answer", "b"], 2, "unknown key 'wordy'"),
    ],
)
def test_what_cannot_be_scored(ft, workplace, words, code, said):
    result = ft("score", *(word.format(lora=workplace / "lora", base=workplace / "base") for word in words))
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"prompt": "\\ud800", "answer": "b"}', "surrogates not allowed"),
        (b'{"prompt": "a", "answer": "b", "note": "\\ud800"}', "surrogates not allowed"),
        (b"[1]", "dictionary"),
        (b'{"prompt": "a"}', "neither a prompt with an answer nor messages"),
        (b'{"prompt": "a", "answer": "b", "messages": [{"role": "user", "content": "c"}]}', "neither"),
        (b'{"prompt": 1, "answer": "b"}', "prompt"),
        (b'{"messages": [{"role": "user", "content": "c"}]}', "last message is not the assistant's"),
        (b'{"messages": [{"role": "king", "content": "c"}]}', "messages.0.role"),
        (b'{"prompt": "' + b"long " * 600 + b'", "answer": "b"}', "tokens"),
    ],
)
def test_a_malformed_line_is_named(ft, workplace, tmp_path, line, said):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "answer": "b"}\n\n' + line)
    result = ft("score", str(workplace / "lora"), str(path))
    assert result.exit_code == 4
    assert said in result.stderr
    assert f"{path}:3" in result.stderr
    assert "Traceback" not in result.stderr
