"""The model card: what was trained, on what, how it went, and how to load it."""

from __future__ import annotations

import json
import re
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft import __version__
from ft.config import redact
from ft.files import ADAPTER_CONFIG
from ft.options import RunOptions
from ft.record import versions
from ft.vocabulary import ADDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ft_hookspecs import Run

CARD: Final = "README.md"
LIBRARIES: Final = ("torch", "transformers", "peft", "datasets")
LOAD_MODEL: Final = "model = AutoModelForCausalLM.from_pretrained({base})"
LOAD_ADAPTER: Final = "model = PeftModel.from_pretrained(model, {folder})"
MERGE_ADAPTER: Final = "model = PeftModel.from_pretrained(model, {folder}).merge_and_unload()"
USUAL: Final = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
)
"""Values that belong on a card even where the defaults were used."""
ELSEWHERE: Final = frozenset({*RunOptions.model_fields, "model_name_or_path", "cache_dir", "config"})
"""Keys that the card shows in another place, or that speak of the machine and not of the model."""


def write_card(run: Run, folder: Path) -> None:
    """Write ``README.md`` into ``folder``, over any that a library has left there.

    What comes from data, configuration and plugins is escaped: it can add no heading, link, HTML or front matter.
    """
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    sections = (
        ("What was trained", _changes(run)),
        ("Data", _data(run)),
        ("Settings", _settings(run)),
        ("Results", _results(run)),
        ("How to load it", _loading(run, is_adapter=is_adapter)),
        ("Made with", _versions(run)),
    )
    body = [f"# {_text(folder.resolve().name)}", ""]
    for title, lines in sections:
        if lines:
            body += [f"## {title}", "", *lines, ""]
    (folder / CARD).write_text(_front_matter(run, is_adapter=is_adapter) + "\n".join(body), encoding="utf-8")


def _front_matter(run: Run, *, is_adapter: bool) -> str:
    from ruamel.yaml import YAML

    stage = run.plan.plugin("stages")
    adapter = run.plan.plugin("adapters")
    content = {
        "base_model": _base(run),
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ft", *(info.name for info in (stage, adapter) if info is not None)],
    }
    text = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(content, text)
    return f"---\n{text.getvalue()}---\n\n"


def _base(run: Run) -> str:
    """The base model as the user named it; of a path only its name, which says nothing about the machine."""
    name = str(run.plan.get("model_name_or_path", ""))
    return Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name


def _changes(run: Run) -> list[str]:
    base = f"Base model: {_text(_base(run))}"
    if run.model_files is not None and run.model_files.description not in ("", _base(run)):
        base += f" ({_text(run.model_files.description)})"
    return [f"{base}.", "", *(f"- {_text(change.summary)}" for _, change in run.changes)]


def _data(run: Run) -> list[str]:
    names = [*(run.plan.get("dataset") or ()), *(run.plan.get("eval_dataset") or ())]
    rows = [
        (split, counts.rows, counts.examples, counts.tokens, counts.supervised, counts.truncated)
        for split, counts in run.counts.items()
    ]
    named = [f"Data sets: {', '.join(_text(Path(str(name)).name) for name in names)}.", ""] if names else []
    return [*named, *_table(("split", "rows", "examples", "tokens", "supervised tokens", "truncated"), rows)]


def _settings(run: Run) -> list[str]:
    plan = run.plan
    shown = redact(plan.values, plan.secrets)
    wanted = [key for key in plan.values if (plan.is_set(key) or key in USUAL) and key not in ELSEWHERE | plan.secrets]
    return _table(("key", "value"), [(key, shown[key]) for key in sorted(wanted) if shown[key] is not None])


def _results(run: Run) -> list[str]:
    """Each measure once, with its value before training beside it where there is one."""
    numbers = {key: value for key, value in run.metrics.items() if isinstance(value, int | float)}
    names = sorted({key.removesuffix("_before") for key in numbers})
    rows = [(name, _number(numbers.get(f"{name}_before")), _number(numbers.get(name))) for name in names]
    return _table(("measure", "before", "after"), rows)


def _loading(run: Run, *, is_adapter: bool) -> list[str]:
    return ["```python", *(line.replace("`", "\\x60") for line in _code(run, is_adapter=is_adapter)), "```"]


def _code(run: Run, *, is_adapter: bool) -> Iterator[str]:
    files = run.model_files
    yield from (["from peft import PeftModel"] if is_adapter else [])
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    here = json.dumps("path/to/this/folder")
    yield f"tokenizer = AutoTokenizer.from_pretrained({here})"
    if not is_adapter:
        yield LOAD_MODEL.format(base=here)
        return
    own = next((change.details["own_base"] for _, change in run.changes if "own_base" in change.details), None)
    if own is not None:
        yield LOAD_MODEL.format(base=json.dumps(f"path/to/this/folder/{own}"))
        yield LOAD_ADAPTER.format(folder=here)
        return
    base = json.dumps(files.path if files is not None else _base(run))
    pinned = f", revision={json.dumps(files.revision)}" if files is not None and files.revision else ""
    yield LOAD_MODEL.format(base=base + pinned)
    if run.stash.get(ADDED, {}):
        yield "model.resize_token_embeddings(len(tokenizer))"
    for name in _merged(run):
        yield MERGE_ADAPTER.format(folder=json.dumps(name))
    yield LOAD_ADAPTER.format(folder=here)


def _merged(run: Run) -> list[str]:
    """Adapters that were merged into the base before training: whoever loads the result must do the same."""
    return [name for _, change in run.changes for name in change.details.get("merged_adapters", ())]


def _versions(run: Run) -> list[str]:
    installed = [(name, version) for name, version in versions().items() if name in LIBRARIES]
    plugins = [(info.id, f"{info.distribution} {info.version}".strip()) for info in run.plan.plugins]
    return _table(("part", "version"), [("ft", __version__), *installed, *plugins])


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    return [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *lines] if lines else []


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    """One line of plain text that Markdown and HTML take for nothing else."""
    words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([\\`*\[\]|#!~])", r"\\\1", escape(" ".join(words.split()), quote=False)).replace("://", ":&#47;/")
