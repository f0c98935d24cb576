"""``ft data preview``: rows as the tokens that the stage makes of them, and which of these are learned.

Learned tokens are green on a terminal; elsewhere they stand between ``⟦`` and ``⟧``.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, Final

import typer

from ft.cli.data import KEYS, stage_run, target_of
from ft.cli.text import colours, echo_json, paint
from ft.data.spans import IGNORE
from ft.errors import ConfigError
from ft_hookspecs import DataCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

    from ft.cli.data import Target
    from ft_hookspecs import Run

OPEN, CLOSE = "⟦", "⟧"
SIDE_BY_SIDE: Final = 100
"""Columns of a terminal from which the two sides of a pair stand beside each other."""
LEARNED: Final = ("green", "bold green")
CONTEXT: Final = ("", "dim")
"""Styles that take turns, so that one sees where a token ends."""
LONGEST: Final = 200  # characters of a value that is shown as it is
PICTURES: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"},
    **dict.fromkeys((*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�"),
}
"""Shown instead of what would steer a terminal: control characters, and those that turn the direction of a text."""


@dataclass(frozen=True)
class Piece:
    """A token: its id, its text (empty where it is the first part of a character), and whether it is learned."""

    id: int
    text: str
    learned: bool


@dataclass(frozen=True)
class Shown:
    """A sample: parts of tokens by name, and its other columns as they are."""

    split: str
    number: int
    parts: dict[str, list[Piece]]
    fields: dict[str, Any]


def show(
    words: Sequence[str], plugins: Sequence[str] | None, excluded: Sequence[str] | None, *, size: int, as_json: bool
) -> None:
    """Print the first ``size`` rows of each split.

    Raises:
        FtError: the configuration, a row, a plugin or the model is wrong.
    """
    target = target_of(words, plugins, excluded)
    if not target.has_model:
        raise ConfigError("no model is named", why="its tokenizer makes the tokens", remedy="give model_name_or_path")
    with stage_run(target) as run:
        previews = [_preview(target, run, key, size) for key in KEYS if target.plan.get(key)]
    if as_json:
        samples = [asdict(sample) for shown, _ in previews for sample in shown]
        echo_json({"samples": samples, "counts": [asdict(counts) for _, counts in previews]})
        return
    for shown, counts in previews:
        for sample in shown:
            _print(sample)
        typer.echo(str(counts))


def _preview(target: Target, run: Run, key: str, size: int) -> tuple[list[Shown], DataCounts]:
    """The first examples of a split through the stage."""
    from ft.data import NO_SPLIT, SPLIT, dataset_sources, read_examples

    hook, counts = target.manager.hook, DataCounts()
    sources = dataset_sources(target.plan, key)
    examples = chain.from_iterable(read_examples(hook, run.plan, source, counts) for source in sources)
    run.stash[SPLIT] = NO_SPLIT  # a few rows need not be what a whole split must
    dataset = hook.ft_prepare_dataset(run=run, examples=list(islice(examples, size)), counts=counts)
    return [_shown(row, key, number, run.tokenizer) for number, row in enumerate(dataset or (), 1)], counts


# ---- rows as pieces -----------------------------------------------------------------------------------------------


def _shown(row: Mapping[str, Any], split: str, number: int, tokenizer: Any) -> Shown:
    """Columns ``…_ids`` are tokens, ``…_labels`` say which of them are learned; anything else is shown as it is."""
    parts: dict[str, list[Piece]] = {}
    prompt = row.get("prompt_ids") or []
    for name in (column.removesuffix("_ids") for column in row if column.endswith("_ids")):
        ids, labels = row[f"{name}_ids"], _labels(row, name)
        before = prompt if name not in ("prompt", "input") else []
        texts = _texts([*before, *ids], tokenizer)[len(before) :]
        learned = (label != IGNORE for label in labels)
        parts[name] = [Piece(*each) for each in zip(ids, texts, learned, strict=True)]
    used = {column for name in parts for column in (f"{name}_ids", *_label_columns(name))}
    return Shown(split, number, parts, {column: value for column, value in row.items() if column not in used})


def _labels(row: Mapping[str, Any], name: str) -> Sequence[int]:
    column = next((column for column in _label_columns(name) if column in row), None)
    return row[column] if column else [IGNORE] * len(row[f"{name}_ids"])


def _label_columns(name: str) -> tuple[str, ...]:
    return ("labels", "input_labels") if name == "input" else (f"{name}_labels",)


def _texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text; a character of several tokens belongs to its last."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids]


# ---- print --------------------------------------------------------------------------------------------------------


def _print(sample: Shown) -> None:
    tokens = sum(map(len, sample.parts.values()))
    learned = sum(piece.learned for pieces in sample.parts.values() for piece in pieces)
    fields = dict(sample.fields)
    fields.pop("length", None)
    tag = {True: ", desirable", False: ", undesirable"}.get(fields.pop("desirable", None), "")
    typer.echo(paint(f"── {sample.split} {sample.number}: {tokens:,} tokens, {learned:,} learned{tag}", "cyan"))
    sides = [name for name in ("chosen", "rejected") if name in sample.parts]
    beside = sides if len(sides) == 2 and sys.stdout.isatty() and _console().width >= SIDE_BY_SIDE else []
    for name, pieces in sample.parts.items():
        if name not in beside:
            _print_part(name if len(sample.parts) > 1 else "", pieces)
    if beside:
        _print_beside({name: sample.parts[name] for name in beside})
    for name, value in fields.items():
        typer.echo(f"{paint(name, 'cyan')}: {_excerpt(value)}")
    typer.echo()


def _print_part(name: str, pieces: Sequence[Piece]) -> None:
    if name:
        typer.echo(paint(f"{name}:", "cyan"))
    text = _text(pieces)
    _console().print(text, soft_wrap=True, end="" if text.plain.endswith("\n") else "\n")


def _print_beside(parts: Mapping[str, Sequence[Piece]]) -> None:
    from rich.table import Table

    table = Table(*parts, box=None, expand=True, padding=(0, 2, 0, 0), header_style="cyan")
    for column in table.columns:
        column.ratio = 1
    texts = [_text(pieces) for pieces in parts.values()]
    for text in texts:
        text.rstrip()
    table.add_row(*texts)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    plain = not colours(sys.stdout)
    return Console(file=sys.stdout, no_color=plain, markup=False, highlight=False, emoji=False)


def _text(pieces: Sequence[Piece]) -> Text:
    """The tokens in colours that take turns; without colour what is learned stands in brackets."""
    from rich.text import Text

    if colours(sys.stdout):
        styles = ((LEARNED if piece.learned else CONTEXT)[number % 2] for number, piece in enumerate(pieces))
        return Text.assemble(*((_visible(piece.text), style) for piece, style in zip(pieces, styles, strict=True)))
    runs = groupby(pieces, key=lambda piece: piece.learned)
    texts = ((learned, _visible("".join(piece.text for piece in run))) for learned, run in runs)
    return Text("".join(f"{OPEN}{text}{CLOSE}" if learned else text for learned, text in texts))


def _visible(text: str) -> str:
    """Control characters as pictures: data must not steer the terminal."""
    return text.translate(PICTURES)


def _excerpt(value: object) -> str:
    text = _visible(str(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
