"""Whether each stage learns: the examples run on the real model, figures before and after, and what must hold of them.

python benchmarks/learning.py            # every example, minutes each
python benchmarks/learning.py pt rm      # some
python benchmarks/learning.py --write    # docs/learning.md again, from the results there are
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "learning"
PAGE = ROOT / "docs" / "learning.md"

Figures = Mapping[str, Any]
Claim = tuple[str, Callable[[Figures], bool]]

HEAD = """# Each stage learns

Examples of [examples/stages](../examples/stages), run on SmolLM2-135M-Instruct with LoRA on two CPU cores by
`benchmarks/learning.py`, which wrote this page from what the runs recorded ([results](../benchmarks/results/learning)).
Every figure is of held-out data: pairs, questions and paragraphs of other topics than those trained on.
"""


def falls(name: str) -> Claim:
    return f"`{name}` falls", lambda figures: figures[name] < figures[f"{name}_before"]


def rises(name: str) -> Claim:
    return f"`{name}` rises", lambda figures: figures[name] > figures[f"{name}_before"]


def at_least(name: str, bound: float) -> Claim:
    return f"`{name}` is at least {bound:g}", lambda figures: figures[name] >= bound


def at_most(name: str, bound: float) -> Claim:
    return f"`{name}` is at most {bound:g}", lambda figures: figures[name] <= bound


def rises_beyond_chance(name: str) -> Claim:
    def holds(figures: Figures) -> bool:
        errors = (figures[f"{name}_std_error_before"], figures[f"{name}_std_error"])
        return bool(figures[name] - figures[f"{name}_before"] > 2 * math.hypot(*errors))

    return f"`{name}` rises by more than two standard errors", holds


@dataclass(frozen=True)
class Example:
    """A run as a user types it, the metrics to show, and what must hold of them."""

    words: tuple[str, ...]
    shown: tuple[str, ...]
    claims: tuple[Claim, ...]
    title: str = ""


def preference(loss: str, *more: str) -> Example:
    folder = f"output_dir=outputs/stages/dpo-{loss}"
    words = ("examples/stages/dpo.yaml", f"pref_loss={loss}", folder, *more)
    return Example(words, PREFERENCE, PREFERRED, f"dpo, {loss}")


PREFERENCE = ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "answer_words", "answer_hedges")
GROUPS = ("eval_reward", "answer_words", "answer_hedges")
PREFERRED = (
    rises("eval_rewards/margins"),
    at_least("eval_rewards/accuracies", 0.85),
    falls("answer_words"),
    falls("answer_hedges"),
)

EXAMPLES: dict[str, Example] = {
    "pt": Example(
        ("examples/stages/pt.yaml",), ("eval_loss", "eval_perplexity"), (falls("eval_loss"), falls("eval_perplexity"))
    ),
    "sft": Example(
        ("examples/stages/sft.yaml",), ("eval_loss", "answer_words", "answer_hedges"), (falls("eval_loss"),)
    ),
    "rm": Example(
        ("examples/stages/rm.yaml",),
        ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"),
        (falls("eval_loss"), at_least("eval_rewards/accuracies", 0.9)),
    ),
    "dpo-sigmoid": preference("sigmoid"),
    "dpo-hinge": preference("hinge"),
    "dpo-ipo": preference("ipo"),
    "dpo-kto_pair": preference("kto_pair"),
    "dpo-orpo": preference("orpo", "pref_beta=1", "learning_rate=4e-4"),
    "dpo-simpo": preference("simpo", "pref_beta=2", "simpo_gamma=0.5", "learning_rate=4e-4"),
    "kto": Example(
        ("examples/stages/kto.yaml",),
        PREFERENCE,
        PREFERRED,
    ),
    "ppo": Example(
        ("examples/stages/ppo.yaml",),
        ("eval_reward", "eval_reward_std_error", "eval_kl", "eval_response_length", "answer_words", "answer_hedges"),
        (rises_beyond_chance("eval_reward"), at_most("eval_kl", 6)),
    ),
    "grpo": Example(("examples/stages/grpo.yaml",), GROUPS, (rises("eval_reward"),)),
    "rloo": Example(("examples/stages/rloo.yaml",), GROUPS, (rises("eval_reward"),)),
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help="examples; all of them when none is named")] = None,
    write: Annotated[bool, typer.Option("--write", help="run nothing, write the page")] = False,
) -> None:
    """Run examples, keep their figures, and write the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in () if write else names or EXAMPLES:
        result = carry_out(EXAMPLES[name])
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"{name}: {json.dumps(result['figures'])}")
    PAGE.write_text(page(), encoding="utf-8")
    broken = [f"{name}: {claim}" for name in results() for claim, holds in claims_of(name) if not holds]
    for line in broken:
        typer.echo(f"does not hold: {line}")
    raise typer.Exit(bool(broken))


def carry_out(example: Example) -> dict[str, Any]:
    """Run the example with the interpreter's own ``ft``, and read what it recorded."""
    subprocess.run([sys.executable, "-m", "ft", "run", *example.words], cwd=ROOT, check=True)
    folder = ROOT / folder_of(example)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    final = rows[-1]
    losses = [row["loss"] for row in rows if row["event"] == "train" and "loss" in row]
    kept = {name: final[name] for metric in example.shown for name in (f"{metric}_before", metric) if name in final}
    extra = {name: final[name] for name in sorted(final) if name.startswith("eval_") and name not in kept}
    return {
        "command": " ".join(["ft", "run", *example.words]),
        "steps": final["step"],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "figures": {**kept, **extra},
    }


def folder_of(example: Example) -> str:
    """The ``output_dir`` of the words, else of the file."""
    given = next((word.partition("=")[2] for word in example.words if word.startswith("output_dir=")), "")
    lines = (ROOT / example.words[0]).read_text(encoding="utf-8").splitlines()
    return given or next(line.partition(":")[2].strip() for line in lines if line.startswith("output_dir:"))


def results() -> dict[str, dict[str, Any]]:
    """The results there are, in the order of the examples."""
    paths = {name: RESULTS / f"{name}.json" for name in EXAMPLES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def claims_of(name: str) -> list[tuple[str, bool]]:
    """What must hold of an example, and whether it does."""
    figures = results()[name]["figures"]
    return [(text, holds(figures)) for text, holds in EXAMPLES[name].claims]


def page() -> str:
    """The page of all results."""
    return "\n".join([HEAD, *(section(name, result) for name, result in results().items()), *not_run()])


def not_run() -> list[str]:
    """The examples that have no result, said as such."""
    commands = [f"$ ft run {' '.join(each.words)}" for name, each in EXAMPLES.items() if name not in results()]
    return ["## Not run yet", "", "```console", *commands, "```", ""] if commands else []


def section(name: str, result: Mapping[str, Any]) -> str:
    """A stage: its command, its figures, and what holds of them."""
    example, figures = EXAMPLES[name], result["figures"]
    rows = [
        f"| `{metric}` | {shown(figures.get(f'{metric}_before'))} | {shown(figures[metric])} |"
        for metric in example.shown
        if metric in figures
    ]
    claims = [f"- {'' if holds else '**does not hold:** '}{text}" for text, holds in claims_of(name)]
    command = ["```console", f"$ {result['command']}", "```"]
    table = ["| held-out | before | after |", "| --- | --- | --- |", *rows]
    title = example.title or name
    lines = [f"## {title}", "", *command, "", f"{result['steps']} optimizer steps.", "", *table, "", *claims, ""]
    return "\n".join(lines)


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


if __name__ == "__main__":
    typer.run(main)
