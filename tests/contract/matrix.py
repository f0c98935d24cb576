"""What composes with what: stage × adapter × quantizer × accelerator, each cell planned and, if it may run, run.

python tests/contract/matrix.py                 # every cell, about an hour on two cores; writes docs/matrix.md
python tests/contract/matrix.py --only lora     # the cells that name it, printed
python tests/contract/matrix.py --refused       # all but the cells that work, planned again: minutes
python tests/contract/matrix.py --write         # the page again, from the outcomes there are

A cell runs two steps of a tiny Llama on the CPU and must end with finite losses, with every weight that trains moved
and no other, and with files that hold what the model holds. A cell that is refused must be refused while planning.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUTCOMES = HERE / "matrix.json"
PAGE = ROOT / "docs" / "matrix.md"
WITNESS = HERE / "witness.py"
LETTERS = HERE / "letters.py"

Keys = Mapping[str, Any]
Verdict = Literal["works", "refused", "gpu", "package", "fails"]

CHATS = [{"instruction": f"What is stone {name}?", "output": f"Stone {name} is {name}{name}."} for name in "abcdefgh"]
DATA: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"{row['instruction']} {row['output']} " * 3} for row in CHATS],
    "chats": CHATS,
    "pairs": [{"prompt": row["instruction"], "chosen": row["output"], "rejected": "I do not know."} for row in CHATS],
    "judged": [{**row, "kto_tag": number % 2 == 0} for number, row in enumerate(CHATS)],
}
DRAWS = {"plugins": str(LETTERS), "max_new_tokens": 8, "learning_rate": 1e-3}
STAGES: dict[str, Keys] = {
    "pt": {"dataset": "text", "cutoff_len": 48},
    "sft": {"dataset": "chats"},
    "rm": {"dataset": "pairs"},
    "dpo": {"dataset": "pairs"},
    "kto": {"dataset": "judged"},
    "ppo": {"dataset": "chats", **DRAWS},
    "grpo": {"dataset": "chats", "num_generations": 4, "per_device_train_batch_size": 8, **DRAWS},
    "rloo": {"dataset": "chats", "num_generations": 4, "per_device_train_batch_size": 8, **DRAWS},
}
ADAPTERS: dict[str, Keys] = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "lora": {"finetuning_type": "lora", "lora_rank": 4},
    "dora": {"finetuning_type": "lora", "lora_rank": 4, "use_dora": True},
    "pissa": {"finetuning_type": "lora", "lora_rank": 4, "pissa_init": True},
    "oft": {"finetuning_type": "oft", "oft_block_size": 8},
}
QUANTIZERS: dict[str, Keys] = {
    "none": {},
    "bnb 4": {"quantization_bit": 4},
    "bnb 8": {"quantization_bit": 8},
    "hqq 4": {"quantization_bit": 4, "quantization_method": "hqq", "hqq_group_size": 16},
    "eetq": {"quantization_bit": 8, "quantization_method": "eetq"},
}
ACCELERATORS: dict[str, Keys] = {
    "none": {},
    "checkpointing": {"gradient_checkpointing": "full"},
    "fused_lora": {"plugins": "fused_lora"},
    "shift_attn": {"shift_attn": True},
    "rope_scaling": {"rope_scaling": "linear", "cutoff_len": 2048},
    "upcast": {"upcast_layernorm": True},
    "flash_attn": {"flash_attn": "fa2"},
    "liger": {"enable_liger_kernel": True},
    "unsloth": {"use_unsloth": True},
    "compile": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
}
AXES: dict[str, dict[str, Keys]] = {
    "stage": STAGES,
    "adapter": ADAPTERS,
    "quantizer": QUANTIZERS,
    "accelerator": ACCELERATORS,
}
SLOW = frozenset({"compile"})
"""Accelerators whose cells take ten times as long as the others."""
SLOW_TO_IMPORT = ("trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer", "bitsandbytes", "hqq.core.quantize")
APART = {"prequantized": "needs a model that is quantised already"}
"""Plugins of the four kinds that are on no axis, and why."""

MARKS = {"works": "✓", "refused": "–", "gpu": "GPU", "package": "pip", "fails": "✗"}


@dataclass(frozen=True)
class Outcome:
    """What became of a cell, and why where it did not run."""

    verdict: Verdict
    why: str = ""


class Cell(tuple[str, ...]):
    """A name of each axis."""

    __slots__ = ()

    @property
    def id(self) -> str:
        return " · ".join(self)

    def keys(self, data: Path) -> dict[str, Any]:
        """What a user would write; plugins of several axes add up."""
        parts = [AXES[axis][name] for axis, name in zip(AXES, self, strict=True)]
        keys = {key: value for part in parts for key, value in part.items()}
        plugins = [str(part["plugins"]) for part in parts if "plugins" in part]
        stage = {"stage": self[0], "dataset": data / f"{keys['dataset']}.json", "plugins": [*plugins, str(WITNESS)]}
        return {**keys, **stage}


def cells(only: Iterable[str] = ()) -> list[Cell]:
    """Every cell, or those with all the names of ``only``; a name given twice must be there twice."""
    every = map(Cell, itertools.product(*AXES.values()))
    return [cell for cell in every if Counter(only) <= Counter(cell)]


def write_data(folder: Path) -> Path:
    for name, rows in DATA.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def judge(cell: Cell, run: Any, data: Path, output: Path) -> Outcome:
    """Plan the cell and, if nothing is against it, run it.

    Args:
        cell: what to compose.
        run: the ``ft.testing.Runs`` that carries it out.
        data: what :func:`write_data` wrote.
        output: a folder that is not there yet.
    """
    return refusal(cell, run, data, output) or seen(run({**cell.keys(data), "output_dir": output}))


def refusal(cell: Cell, run: Any, data: Path, output: Path) -> Outcome | None:
    """Why the cell is refused while planning; ``None`` when it is not."""
    return planned({**run.always, **cell.keys(data), "output_dir": output})


def planned(keys: Keys) -> Outcome | None:
    """Why the plan is refused; ``None`` when it is not."""
    from ft.errors import FtError, Problems
    from ft.planning import make_plan
    from ft.testing.runs import written

    try:
        make_plan(None, [f"{key}={written(value)}" for key, value in keys.items()])
    except Problems as problems:
        return refused(list(problems.problems))
    except FtError as error:
        return refused([error])
    return None


def refused(problems: list[Any]) -> Outcome:
    """A combination that cannot be, on any machine, comes before what this machine lacks."""
    for problem in problems:
        if problem.exit_code != 5:
            return Outcome("refused", ": ".join(part for part in (problem.what, problem.why) if part))
    verdict: Verdict = "package" if any("pip install" in problem.remedy for problem in problems) else "gpu"
    return Outcome(verdict, problems[0].what)


def seen(outcome: Any) -> Outcome:
    """What the witness and the metrics say of a run that was carried out."""
    if outcome.exits != (0,):
        lines = [line for line in outcome.output.splitlines() if line.strip()]
        return Outcome("fails", f"exit {outcome.exits[0]}: {' '.join(lines[-3:])[-300:]}")
    losses = [row["loss"] for row in outcome.rows if row["event"] == "train"]
    if len(losses) != 2 or not all(map(math.isfinite, losses)):
        return Outcome("fails", f"losses {losses}")
    report = json.loads((outcome.folder / "witness.json").read_text(encoding="utf-8"))
    wrong = [f"{what}: {', '.join(names[:3])}" for what, names in report.items() if what != "trains" and names]
    return Outcome("fails", "; ".join(wrong)) if wrong or not report["trains"] else Outcome("works")


def main(
    only: Annotated[list[str] | None, typer.Option(help="names that a cell must have; nothing is written")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="plan again all that does not work")] = False,
    write: Annotated[bool, typer.Option("--write", help="run nothing, write the page")] = False,
) -> None:
    """Judge cells that have no outcome yet, and write the page."""
    kept = {} if only else {cell: each for cell, each in outcomes().items() if each.verdict == "works" or not refused}
    left = [cell for cell in cells(only or ()) if cell not in kept and not write]
    left.sort(key=lambda cell: cell[-1] in SLOW)
    for number, (cell, outcome) in enumerate(judged(left, carry_out=not refused)):
        print(f"{MARKS[outcome.verdict]} {cell.id}  {outcome.why}", flush=True)
        kept[cell] = outcome
        if number % 20 == 0 and not only:
            save(kept)  # an hour's work is not lost with its last minute
    if not only:
        save(kept)
        PAGE.write_text(page(outcomes()), encoding="utf-8")
    raise typer.Exit(any(outcome.verdict == "fails" for outcome in kept.values()))


def judged(wanted: Iterable[Cell], *, carry_out: bool) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its outcome, in a folder that is gone afterwards; without ``carry_out`` those that are refused."""
    import shutil

    from ft.testing import Runs, save_tiny_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Runs(always(save_tiny_model(folder / "model"), folder / "cache"), preload=SLOW_TO_IMPORT)
        data = write_data(folder)
        for cell in wanted:
            outcome = (judge if carry_out else refusal)(cell, run, data, folder / "out")
            shutil.rmtree(folder / "out", ignore_errors=True)
            if outcome:
                yield cell, outcome


def always(model: Path, cache: Path) -> dict[str, Any]:
    """Keys of every cell."""
    return {
        "model_name_or_path": model,
        "cache_dir": cache,
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
    }


def outcomes() -> dict[Cell, Outcome]:
    """What the last runs found, of cells that there still are."""
    if not OUTCOMES.is_file():
        return {}
    there = set(cells())
    kept = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    return {cell: Outcome(*found) for name, found in kept.items() if (cell := Cell(name.split(" · "))) in there}


def save(found: Mapping[Cell, Outcome]) -> None:
    kept = {cell.id: [outcome.verdict, outcome.why] for cell, outcome in sorted(found.items())}
    OUTCOMES.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- the page -----------------------------------------------------------------------------------------------------

HEAD = """# What composes with what

Every cell of stage × adapter × quantizer × accelerator, written by `make matrix` from what each did on a tiny Llama and
a CPU: two steps, finite losses, every weight that trains moved and no other, and files that hold what the model holds.
The cells of `compile` use its backend `aot_eager`: graphs are traced, cut and differentiated as ever, and run by the
usual kernels. The contract of accelerators shows Inductor.

"""


def page(found: Mapping[Cell, Outcome]) -> str:
    """The counts, a table for each accelerator, and the reasons."""
    counts = Counter(outcome.verdict for outcome in found.values())
    missing = len(cells()) - len(found)
    lines = [
        f"| {len(found):,} cells | |",
        "| --- | --- |",
        *(f"| {MARKS[name]} | {counts[name]:,} {meaning} |" for name, meaning in MEANINGS.items() if counts[name]),
        *([f"| | {missing:,} not run yet |"] if missing else []),
    ]
    tables = [table(name, found) for name in ACCELERATORS]
    return HEAD + "\n".join(lines) + "\n\n" + "\n".join(tables) + "\n" + reasons(found)


MEANINGS = {
    "works": "work",
    "refused": "are refused while planning, with the reason",
    "gpu": "need a GPU",
    "package": "need a package that was not installed",
    "fails": "fail",
}


def table(accelerator: str, found: Mapping[Cell, Outcome]) -> str:
    """Adapters and quantizers down, stages across."""
    title = "Without an accelerator" if accelerator == "none" else f"With {accelerator}"
    lines = [f"## {title}\n", f"| | {' | '.join(STAGES)} |", f"| --- |{' :-: |' * len(STAGES)}"]
    for adapter, quantizer in itertools.product(ADAPTERS, QUANTIZERS):
        row = [found.get(Cell((stage, adapter, quantizer, accelerator))) for stage in STAGES]
        name = adapter if quantizer == "none" else f"{adapter}, {quantizer}"
        lines.append(f"| {name} | {' | '.join(MARKS[each.verdict] if each else '' for each in row)} |")
    return "\n".join(lines) + "\n"


def reasons(found: Mapping[Cell, Outcome]) -> str:
    """Each reason once, with the number of cells that it was given for."""
    counted = Counter((outcome.verdict, outcome.why) for outcome in found.values() if outcome.verdict != "works")
    lines = [
        f"| {MARKS[name]} | {number:,} | {why.replace('|', '/')} |" for (name, why), number in counted.most_common()
    ]
    return "\n".join(["## Reasons\n", "| | cells | |", "| --- | --: | --- |", *lines]) + "\n"


if __name__ == "__main__":
    sys.exit(typer.run(main))
