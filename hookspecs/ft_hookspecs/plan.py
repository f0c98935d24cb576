"""What is known before anything is loaded: the resolved configuration and the plugins that will act on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ft_hookspecs.options import PluginOptions

Options = TypeVar("Options", bound="PluginOptions")

KINDS: Final = (
    "stages",
    "adapters",
    "quantizers",
    "accelerators",
    "optimizers",
    "loggers",
    "models",
    "datasets",
    "exporters",
    "launchers",
    "plugins",
)
"""The kinds of plugin; the entry-point group of a kind is ``ft.<kind>``. ``plugins`` holds any other set of hooks;
``exporters`` and ``launchers`` have no hook of their own yet."""

SourceKind = Literal["command line", "environment", "file", "plugin default", "library default", "derived"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: the level that set it, and the exact place (``config.yaml:12``, ``--lora_rank``)."""

    kind: SourceKind
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass(frozen=True, slots=True, order=True)
class PluginInfo:
    """An installed plugin as its metadata states it; nothing of it need have been imported."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def id(self) -> str:
        """``kind:name``, unique in a run."""
        return f"{self.kind}:{self.name}"

    def __str__(self) -> str:
        distribution = f"{self.distribution} {self.version}".rstrip()  # an in-house plugin has no version
        return f"{self.name!r} ({self.kind}, {distribution}, {self.value})"


@dataclass(frozen=True, slots=True)
class Selection:
    """A wish for one plugin and the key, flag or default that expressed it.

    ``plugin`` is ``kind:name``, a bare ``name``, a dotted module or the path of a Python file. ``kind`` is what the
    expressing key can accept (``stages`` for ``stage``), or empty when any kind will do. ``default`` says that nobody
    asked for it: it may be disabled without contradiction.
    """

    plugin: str
    because: str
    kind: str = ""
    default: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan, found before anything is loaded.

    ``what`` says what cannot be; ``why`` the reason; ``remedy`` what to write or type instead; ``keys`` the keys at
    fault, from which the report derives file and line. ``exit_code`` is 2 (configuration) unless it is another kind:
    4 data, 5 environment (a missing package or device).
    """

    what: str
    why: str = ""
    remedy: str = ""
    keys: tuple[str, ...] = ()
    exit_code: int = 2


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know of a plan that can be carried out as it is: a key that does nothing in this run, say.

    ``what`` is a line; ``keys`` the keys that it is about, from which the plan derives file and line.
    """

    what: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The frozen composition of a run: every option with its source, and the selected plugins in order.

    ``values`` holds every key of the composition by its flat name. :meth:`of` gives a plugin its own options typed.
    """

    values: Mapping[str, Any]
    sources: Mapping[str, Source]
    plugins: tuple[PluginInfo, ...]
    models: tuple[PluginOptions, ...]
    output_dir: Path | None
    config_path: Path | None = None
    notes: tuple[str, ...] = ()
    secrets: frozenset[str] = field(default_factory=frozenset)

    def of(self, model: type[Options]) -> Options:
        """The validated options of one declared model.

        Raises:
            LookupError: the model was not declared by a selected plugin.
        """
        for options in self.models:
            if isinstance(options, model):
                return options
        raise LookupError(f"no selected plugin declares {model.__qualname__}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a flat key, or ``default`` when no part of the composition declares it."""
        return self.values.get(key, default)

    def is_set(self, key: str) -> bool:
        """Whether the user (file, environment or command line) gave the key a value."""
        source = self.sources.get(key)
        return source is not None and source.kind in ("command line", "environment", "file")

    def plugin(self, kind: str) -> PluginInfo | None:
        """The selected plugin of a kind that holds one, or the first of several."""
        return next((plugin for plugin in self.plugins if plugin.kind == kind), None)

    def has(self, kind: str, name: str) -> bool:
        """Whether ``kind:name`` is selected."""
        return any(plugin.kind == kind and plugin.name == name for plugin in self.plugins)
