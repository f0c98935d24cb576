"""``ft score``: what a saved reward model says of answers, from the command line or from JSON lines."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ft.errors import ConfigError, DataError
from ft.files import ADAPTER_CONFIG, RECORD, VALUE_HEAD, json_object
from ft_hookspecs import Message, ModelFiles, Role, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ft.training.scoring import Scorer

CHUNK: Final = 256
"""Lines that are read, scored and written at a time."""

REMEDY: Final = 'write one {"prompt": "…", "answer": "…"} or {"messages": [{"role": "…", "content": "…"}, …]} a line'


class Turn(BaseModel):
    """One message as a line has it."""

    model_config = ConfigDict(strict=True, frozen=True)

    role: Role
    content: str


class Line(BaseModel):
    """One line: a prompt with its answer, or a conversation that ends with one. Other keys go through to the output."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    prompt: str | None = None
    answer: str | None = None
    messages: list[Turn] = Field(default=[])

    def conversation(self) -> tuple[Message, ...]:
        """Its messages.

        Raises:
            ValueError: it is neither of the two shapes, or both.
        """
        if self.messages and self.prompt is None and self.answer is None:
            if self.messages[-1].role != "assistant":
                raise ValueError("the last message is not the assistant's")
            return tuple(Message(turn.role, turn.content) for turn in self.messages)
        if self.messages or self.prompt is None or self.answer is None:
            raise ValueError("neither a prompt with an answer nor messages")
        return Message("user", self.prompt), Message("assistant", self.answer)


def score(
    model: str,
    words: Sequence[str],
    adapter: str | None,
    prompt: str | None,
    answer: str | None,
    plugins: Sequence[str],
) -> None:
    """Print the score of one answer, or of each line of a file, as JSON lines in order.

    Raises:
        ConfigError: there is nothing to score, or the model is not found.
        DataError: the folder holds no reward model, or a line is malformed; names it.
    """
    keys = [word for word in words if "=" in word]
    files = [word for word in words if "=" not in word]
    if (prompt is None) != (answer is None) or (prompt is None) == (not files) or len(files) > 1:
        raise ConfigError(
            "give exactly one thing to score",
            where=" ".join(files) or "--prompt, --answer",
            remedy='--prompt "…" with --answer "…", or one file of JSON lines, or - for standard input',
        )
    run, scorer = load(model, adapter, keys, plugins)
    if prompt is not None:
        print_scores(run, scorer, [({"prompt": prompt, "answer": answer}, "--prompt, --answer")])
        return
    with opened(files[0]) as stream:
        lines = rows(stream, files[0])
        while chunk := list(islice(lines, CHUNK)):
            print_scores(run, scorer, chunk)


# ---- lines --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(name: str) -> Iterator[Iterable[bytes]]:
    """A file of that name, or standard input for ``-``.

    Raises:
        DataError: there is no such file.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    if not Path(name).is_file():
        raise DataError("the file to score does not exist", where=name, remedy="give a file of JSON lines, or -")
    with Path(name).open("rb") as stream:
        yield stream


def rows(stream: Iterable[bytes], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line that is not blank, with its place."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            where = f"{'standard input' if name == '-' else name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError("the line is not valid JSON", where=where, why=str(error), remedy=REMEDY) from None
            yield row, where


def print_scores(run: Run, scorer: Scorer, chunk: Sequence[tuple[Any, str]]) -> None:
    """Each row with its ``score``."""
    texts = [rendered(run, row, where) for row, where in chunk]
    values = scorer(texts, [where for _, where in chunk]).tolist()
    for (row, _), value in zip(chunk, values, strict=True):
        typer.echo(json.dumps({**row, "score": round(value, 6)}, ensure_ascii=False))


def rendered(run: Run, row: Any, where: str) -> str:
    """A row as the reward model has learned to read it: up to the end of the answer's turn."""
    from ft.training.scoring import without_trailing_space

    assert run.template is not None
    try:
        json.dumps(row, ensure_ascii=False).encode()  # half of a character can neither be read nor printed
        messages = Line.model_validate(row).conversation()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise DataError("a line cannot be scored", where=where, why=why, remedy=REMEDY) from None
    except ValueError as error:
        raise DataError("a line cannot be scored", where=where, why=str(error), remedy=REMEDY) from None
    try:
        return without_trailing_space(run.template.render(messages), run.template)
    except DataError as error:
        raise DataError(error.what, where=where, why=error.why, remedy=error.remedy) from None


# ---- the model ----------------------------------------------------------------------------------------------------


def load(model: str, adapter: str | None, keys: Sequence[str], plugins: Sequence[str]) -> tuple[Run, Scorer]:
    """A reward model as the plugins of a run load it, with nothing that trains.

    Args:
        model: what ``stage: rm`` saved (an adapter or a whole model), or with ``adapter`` any model.
        adapter: folder of an adapter with the value head.
        keys: ``KEY=VALUE`` of a configuration, which go before what the folder says.
        plugins: as for ``ft run --plugin``.
    """
    from ft import lifecycle
    from ft.planning import compose, freeze
    from ft.training import load_value_head
    from ft.training.scoring import Scorer

    folder = head_folder(adapter or model)
    words = {word.partition("=")[0]: word for word in (*words_for(model, adapter, folder), *keys)}
    composition = compose(None, list(words.values()), plugins, (), os.environ)
    run = Run(freeze(composition.resolve(), composition.manager, None))
    lifecycle.find_model(run, composition.manager)
    read_as_trained(run, composition.manager.hook, folder)
    lifecycle.load_model(run, composition.manager)
    lifecycle.change_model(run, composition.manager)
    assert run.model is not None
    assert run.tokenizer is not None
    head = load_value_head(run.model, folder)
    run.model.to(device(run))
    return run, Scorer(run.model, head, run.tokenizer, run.plan.get("attention", "auto"))


def head_folder(name: str) -> Path:
    """The folder of a reward model.

    Raises:
        ConfigError: it does not exist.
        DataError: it holds no value head.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"the reward model {name!r} does not exist", remedy="give the output_dir of a run with stage: rm"
        )
    if not (folder / VALUE_HEAD).is_file():
        raise DataError(
            f"the folder holds no reward model: {VALUE_HEAD} is missing",
            where=str(folder),
            remedy="give the output_dir of a run with stage: rm, or one of its checkpoints",
        )
    return folder


def words_for(model: str, adapter: str | None, folder: Path) -> list[str]:
    """The keys that load it: from the command line, the record of its run, or the adapter's own file."""
    record = json_object(folder / RECORD)
    config = record.get("config", {})
    thinking = [f"enable_thinking={json.dumps(config['enable_thinking'])}"] if "enable_thinking" in config else []
    if not (folder / ADAPTER_CONFIG).is_file():
        return [f"model_name_or_path={model}", "finetuning_type=full", *thinking]
    merged = [name for change in record.get("changes", ()) for name in change.get("merged_adapters", ())]
    words = [f"adapter_name_or_path={','.join([*merged, str(folder)])}", "finetuning_type=lora", *thinking]
    if adapter is not None:
        return [f"model_name_or_path={model}", *words]
    base = config.get("model_name_or_path") or json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return [f"model_name_or_path={base}", *words]


def read_as_trained(run: Run, hook: Any, folder: Path) -> None:
    """The tokenizer that was saved with the reward model, whose template is the one it was trained on."""
    from ft.data import template_for
    from ft.modeling import load_tokenizer

    if (folder / "tokenizer_config.json").is_file():
        run.tokenizer = load_tokenizer(ModelFiles(str(folder)), run.plan)
        run.template = template_for(hook, run.plan, run.tokenizer)


def device(run: Run) -> str:
    """A GPU where there is one, unless ``use_cpu`` says otherwise."""
    import torch

    return "cuda" if torch.cuda.is_available() and not run.plan.get("use_cpu") else "cpu"
