"""Whether QLoRA learns what LoRA learns: the quickstart, shortened, over each quantizer and over plain weights.

python benchmarks/quantized.py               # every quantizer, minutes each
python benchmarks/quantized.py bnb-4 eetq    # some; LoRA's figures are kept
python benchmarks/quantized.py --write       # the table in docs/quantizers.md again
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "quantized.json"
PAGE = ROOT / "docs" / "quantizers.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"

PLAIN = "lora"
RUNS = {
    PLAIN: (),
    "bnb-4": ("quantization_bit=4",),
    "bnb-8": ("quantization_bit=8",),
    "hqq-4": ("quantization_bit=4", "quantization_method=hqq"),
    "eetq": ("quantization_bit=8", "quantization_method=eetq"),
}
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
CHANGED = {"num_train_epochs": "2", "plot_loss": "false"}
LEFT_OUT = ("plugins", "ask_questions", "output_dir")
"""Two epochs of the quickstart instead of six, and no questions asked, which take longer than training."""

LEAST = 0.9
"""Of LoRA's reduction of the held-out loss."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="of the table; all when none is named")] = None,
    write: Annotated[bool, typer.Option("--write", help="run nothing, write the table")] = False,
) -> None:
    """Run the quickstart over each quantizer, keep the figures, and write the table."""
    figures = results()
    for name in () if write else names or RUNS:
        figures[name] = carry_out(name)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"{name}: {json.dumps(figures[name])}")
    PAGE.write_text(page(figures), encoding="utf-8")
    missed = [name for name in figures if share(figures, name) < LEAST]
    typer.echo(f"below {LEAST:.0%} of LoRA: {', '.join(missed) or 'none'}")
    raise typer.Exit(bool(missed))


def results() -> dict[str, dict[str, Any]]:
    """The figures there are."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}  # type: ignore[no-any-return]  # JSON


def page(figures: dict[str, dict[str, Any]]) -> str:
    """The page with the table of these figures."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + table(figures) + END + rest.partition(END)[2]


def words(name: str, *more: str) -> list[str]:
    """The run of a name as a user types it."""
    lines = QUICKSTART.read_text(encoding="utf-8").splitlines()
    keys = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
    kept = {key: value.strip('"') for key, value in keys.items() if key not in LEFT_OUT} | CHANGED
    return [*(f"{key}={value}" for key, value in kept.items()), *RUNS[name], *more]


def carry_out(name: str) -> dict[str, Any]:
    """Run it with the interpreter's own ``ft``, and read what it recorded."""
    folder = ROOT / "outputs" / "quantized" / name
    subprocess.run([sys.executable, "-m", "ft", "run", *words(name, f"output_dir={folder}")], cwd=ROOT, check=True)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    metrics = record["metrics"]
    sizes = [change for change in record["changes"] if "bytes_after" in change]
    return {
        "eval_loss_before": metrics["eval_loss_before"],
        "eval_loss": metrics["eval_loss"],
        **({key: sizes[0][key] for key in ("bytes_before", "bytes_after")} if sizes else {}),
    }


def reduction(figures: dict[str, Any]) -> float:
    """How far the held-out loss fell."""
    return float(figures["eval_loss_before"] - figures["eval_loss"])


def share(figures: dict[str, dict[str, Any]], name: str) -> float:
    """The reduction from LoRA's own start to where the run ended, as a share of LoRA's.

    So what quantising costs at the start counts against it.
    """
    plain = figures[PLAIN]
    return float((plain["eval_loss_before"] - figures[name]["eval_loss"]) / reduction(plain))


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The section of the page."""
    rows = [
        f"| `{name}` | {each['eval_loss_before']:.3f} | {each['eval_loss']:.3f} | {share(figures, name):.1%} | "
        + (f"{each['bytes_before'] / 1e6:.0f} → {each['bytes_after'] / 1e6:.0f} MB |" if "bytes_after" in each else "|")
        for name in RUNS
        if (each := figures.get(name))
    ]
    return "\n".join(
        [
            "## What QLoRA learns",
            "",
            "The quickstart (SmolLM2-135M, LoRA rank 16, two epochs), by `benchmarks/quantized.py`: the held-out loss,",
            "and how far it fell from LoRA's start, as a share of what LoRA reached.",
            "",
            "| | loss before | after | of LoRA's reduction | weights |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
