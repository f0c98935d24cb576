"""What data is between a file and a model: rows, messages, templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
ToolSpec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """One data set of a run, as ``dataset_info.json`` or a bare path describes it.

    ``location`` is a file, a folder or a hub id. ``formatting`` names a format plugin, or is empty: then the formats
    are asked which of them the columns fit. ``columns`` and ``tags`` hold only what was named; a format keeps its own
    defaults for the rest.
    """

    name: str
    location: str
    formatting: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    ranking: bool = False
    split: str = "train"
    subset: str | None = None
    folder: str | None = None
    num_samples: int | None = None
    declared_at: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it stands in a file. ``where`` is ``path:line`` (or ``path row N`` where a format has no lines)."""

    data: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    ``train`` is what the data says: ``True`` or ``False`` overrules the stage's choice, ``None`` leaves it.
    ``weight`` multiplies the loss of the turn's tokens.
    """

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    reasoning: str | None = None
    train: bool | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Example:
    """One sample in the form every stage understands.

    Exactly one of ``messages`` (a conversation) and ``text`` (plain text, for pretraining) is given. A preference pair
    puts the prompt in ``messages`` and its two answers in ``chosen`` and ``rejected``; a kto sample sets ``desirable``.
    """

    where: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    desirable: bool | None = None


FormatReader = Callable[[Row], Example]
"""Turns a row into an example; raises ``ft.errors.DataError`` naming ``row.where`` when the row is malformed."""


class Template(Protocol):
    """Renders a conversation to text, for training and for inference alike."""

    name: str
    stop: Sequence[str]

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), add_generation_prompt: bool = False
    ) -> str:
        """The whole text, special tokens included. With ``add_generation_prompt`` it ends where an answer begins."""
        ...
