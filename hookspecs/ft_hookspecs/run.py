"""The one record that hooks receive once a run has begun."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from ft_hookspecs.data import Template
    from ft_hookspecs.memory import Estimate
    from ft_hookspecs.plan import Plan, PluginInfo

T = TypeVar("T")


class StashKey(Generic[T]):
    """A typed key for a plugin's private state; make one at module level and keep it to yourself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Stash:
    """Private state of plugins, each under its own typed key, so that no one hangs attributes onto :class:`Run`."""

    def __init__(self) -> None:
        self._items: dict[StashKey[Any], object] = {}

    def __setitem__(self, key: StashKey[T], value: T) -> None:
        self._items[key] = value

    def __getitem__(self, key: StashKey[T]) -> T:
        return cast("T", self._items[key])

    def __contains__(self, key: StashKey[Any]) -> bool:
        return key in self._items

    def get(self, key: StashKey[T], default: T) -> T:
        """The value under ``key``, or ``default``."""
        return cast("T", self._items.get(key, default))


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files lie once found: a folder in the Hugging Face layout, or one GGUF file inside a folder.

    ``path`` is the folder, or a hub id when transformers itself should fetch. ``revision`` pins a hub id. Without
    ``own_code`` no Python code of the files runs, whatever ``trust_remote_code`` says.
    """

    path: str
    gguf_file: str | None = None
    revision: str | None = None
    description: str = ""
    own_code: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What a surgery hook did: the model to go on with, a line for the record, and the modules it claims.

    ``summary`` must be non-empty: a plugin that changed nothing is an error. Two plugins of one kind that claim the
    same module are an error. ``details`` goes into ``run.json`` as it is.
    """

    model: PreTrainedModel | nn.Module
    summary: str
    modules: frozenset[str] = frozenset()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class DataCounts:
    """What became of the rows of one split; every drop and cut is counted here and printed.

    ``tokens`` and ``supervised`` count tokens after truncation; ``dropped`` maps a reason to a number of rows.
    """

    rows: int = 0
    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    truncated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""

    def drop(self, reason: str) -> None:
        """Count one row that does not become an example."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def repair(self, what: str) -> None:
        """Count one row of which something was made otherwise than it was given."""
        self.repaired[what] = self.repaired.get(what, 0) + 1

    def add(self, other: DataCounts) -> None:
        """Add the numbers of another part of the same rows."""
        for name in ("rows", "examples", "tokens", "supervised", "truncated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, others in ((self.dropped, other.dropped), (self.repaired, other.repaired)):
            for reason, number in others.items():
                mine[reason] = mine.get(reason, 0) + number

    def __str__(self) -> str:
        """``149 examples of 150 rows, 8,012 tokens (3,100 supervised), 2 cut, 1 dropped (…)``: nothing goes unsaid."""
        of_rows = f" of {self.rows:,} rows" if self.rows != self.examples else ""
        parts = [f"{self.examples:,} examples{of_rows}, {self.tokens:,} tokens ({self.supervised:,} supervised)"]
        if self.truncated:
            parts.append(f"{self.truncated:,} cut")
        parts += [f"{number:,} dropped ({reason})" for reason, number in self.dropped.items()]
        parts += [f"{number:,} {what}" for what, number in self.repaired.items()]
        return ", ".join(parts)


class OtherModel(NamedTuple):
    """A model beside the one that trains, such as a reference or a reward model: frozen, with its own tokenizer."""

    model: PreTrainedModel | nn.Module
    tokenizer: PreTrainedTokenizerBase


def _to_nobody(line: str) -> None:
    """Where lines go when nobody listens."""


def _no_optimizer(model: nn.Module) -> None:
    """Leaves the optimizer to ``optim``."""


def _usual_groups(model: nn.Module) -> None:
    """Leaves the parameters in their usual two groups."""


def _no_other_model(*_: str | int | None) -> OtherModel:
    """Before the model that trains is there, no other can be loaded like it."""
    raise RuntimeError("run.load_other can be called from ft_build_trainer on")


@dataclass
class Run:
    """A run as it unfolds: the frozen plan, and what the phases have produced so far.

    Fields are filled in the order of the lifecycle; a hook may rely on those of the phases before its own. ``tell``
    shows a line to the user; ``make_optimizer`` calls ``ft_create_optimizer`` once the model is wrapped for training,
    and ``group_parameters`` calls ``ft_parameter_groups`` (``ft.training.parameter_groups`` checks what it says);
    ``load_other`` loads another model, given its name, those of its adapters (with commas, or ``None``) and the bits
    that the run's quantizer is to leave it (``None``: all), in the number format of the one that trains, from
    ``ft_build_trainer`` on;
    ``estimate`` is the memory that the run is expected to take, ``None`` where that cannot be known;
    ``rewarders`` are the plugins that implement ``ft_reward``, each with a function of prompts and answers.
    """

    plan: Plan
    tell: Callable[[str], None] = _to_nobody
    stash: Stash = field(default_factory=Stash)
    model_files: ModelFiles | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    template: Template | None = None
    estimate: Estimate | None = None
    train_dataset: Dataset | None = None
    eval_datasets: dict[str, Dataset] = field(default_factory=dict)
    counts: dict[str, DataCounts] = field(default_factory=dict)
    model: PreTrainedModel | nn.Module | None = None
    changes: list[tuple[PluginInfo, Change]] = field(default_factory=list)
    make_optimizer: Callable[[nn.Module], Optimizer | None] = _no_optimizer
    group_parameters: Callable[[nn.Module], list[dict[str, Any]] | None] = _usual_groups
    load_other: Callable[[str, str | None, int | None], OtherModel] = _no_other_model
    rewarders: dict[PluginInfo, Callable[[list[str], list[str]], Sequence[float]]] = field(default_factory=dict)
    trainer: Trainer | None = None
    decisions: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    resumed_from: str | None = None

    @property
    def output_dir(self) -> Path:
        """The folder of everything this run writes.

        Raises:
            ValueError: the plan has none.
        """
        if self.plan.output_dir is None:
            raise ValueError("this run has no output_dir")
        return self.plan.output_dir

    @property
    def resumed_step(self) -> int | None:
        """The optimizer step that a resumed run goes on after; ``None`` for a run from the start.

        Read from the checkpoint's ``trainer_state.json``, else from a folder name like ``checkpoint-40``.
        """
        if self.resumed_from is None:
            return None
        checkpoint = Path(self.resumed_from)
        state = checkpoint / "trainer_state.json"
        if state.is_file():
            return int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
        number = re.search(r"-(\d+)$", checkpoint.name)
        return int(number[1]) if number else None

    def decide(self, line: str) -> None:
        """Record a decision that was taken for the user, with its reason; it is told at once, and once."""
        if line not in self.decisions:
            self.decisions.append(line)
            self.tell(line)
