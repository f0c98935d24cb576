"""The modules of a model, as the headers of its files tell them: by the names that transformers' model of it has.

Most files name weights as the model does. Some do without the first part of a name, and transformers renames and merges
weights of some architectures while it loads them: those that are not known here have no layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.estimate import experts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Shapes = Mapping[str, tuple[int, ...]]

HEADS: Final = ("lm_head", "embed_out")
"""The head is a module of every decoder, though its weight may be that of the embeddings, and then is in no file."""
BASES: Final = ("model", "transformer")
"""First parts of names, which files of the model without a head lack."""
TRANSPOSED: Final = ("gpt2", "openai-gpt")
"""Architectures whose linear maps are ``Conv1D``: inputs first."""
RENAMED: Final = {"mixtral": (r"\.block_sparse_moe\.", ".mlp."), "qwen2_moe": ("", "")}
"""Families of mixtures of experts whose experts are merged, with what is renamed besides."""
EXPERT: Final = re.compile(r"(\.experts)\.\d+\.(\w+)\.weight$")
GGUF: Final = ("llama", "qwen2", "qwen3")
"""Architectures of GGUF files whose parts ``ft.estimate`` can name."""


@dataclass(frozen=True)
class Layout:
    """The shapes of the weights by name.

    Attributes:
        weights: a matrix's outputs come first, but for ``transposed`` ones.
        tied: whether embeddings and head are one weight.
        transposed: whether the linear maps have their inputs first.
        experts: whether it is a mixture of experts, of which some matrices are no linear layers.
    """

    weights: Shapes
    tied: bool
    transposed: bool = False
    experts: bool = False

    @cached_property
    def modules(self) -> list[str]:
        """Every module that has weights, or modules with weights."""
        names = [HEADS[0], *(name.rpartition(".")[0] for name in self.weights)]
        return list(dict.fromkeys(part for name in names for part in _path(name)))

    @cached_property
    def matrices(self) -> list[str]:
        """The modules that LoRA has a layer for."""
        names = (name for name, shape in self.weights.items() if name.endswith(".weight") and len(shape) > 1)
        return [HEADS[0], *(name.removesuffix(".weight") for name in names)]

    @cached_property
    def layers(self) -> tuple[str, int]:
        """The name of the list of layers, and their number."""
        numbers: dict[str, set[str]] = {}
        for name in self.weights:
            if match := re.match(r"(.+?)\.(\d+)\.", name):
                numbers.setdefault(match[1], set()).add(match[2])
        holder = max(numbers, key=lambda name: len(numbers[name]), default="")
        return holder, len(numbers.get(holder, ()))

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear maps inside the layers that are certain to be such: outputs and inputs."""
        holder = f"{self.layers[0]}."
        maps = {
            name.removesuffix(".weight"): shape[:: -1 if self.transposed else 1]
            for name, shape in self.weights.items()
            if name.startswith(holder) and name.endswith("_proj.weight" if self.experts else ".weight")
        }
        certain = {name: shape for name, shape in maps.items() if len(shape) == 2 and ".experts." not in name}
        return {name: (shape[0], shape[1]) for name, shape in certain.items()}


def layout(config: Mapping[str, Any], weights: Shapes) -> Layout | None:
    """The layout of a folder in the Hugging Face layout or of a GGUF file; ``None`` where it is not known."""
    if architecture := config.get("general.architecture"):
        dense = f"{architecture}.expert_count" not in config
        return Layout(weights, _is_tied(config, weights)) if architecture in GGUF and dense else None
    model_type = str(config.get("model_type") or "")
    family = _family(model_type, tuple(config.get("architectures") or ()))
    if family is None:
        return None
    loaded = {name: shape for each, shape in weights.items() for name in _loaded(each, family, _lacks_base(weights))}
    return Layout(loaded, _is_tied(config, weights), model_type in TRANSPOSED, bool(experts_of(config)))


def _is_tied(config: Mapping[str, Any], weights: Iterable[str]) -> bool:
    said = config.get("tie_word_embeddings")
    return not any(name.startswith(HEADS) for name in weights) if said is None else bool(said)


@cache
def _family(model_type: str, architectures: tuple[str, ...]) -> str | None:
    """The family of a mixture of experts; empty where nothing is renamed, ``None`` where that is not known."""
    spec = find_spec("transformers")
    table = Path(spec.origin or "").parent / "conversion_mapping.py" if spec else Path()
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    if not any(f'"{name}"' in text for name in (model_type, *architectures)):
        return ""
    alias = re.search(rf'^ *"{re.escape(model_type)}": "(\w+)",$', text, re.MULTILINE)
    family = alias[1] if alias else model_type
    return family if family in RENAMED else None


def _lacks_base(weights: Iterable[str]) -> bool:
    return any(re.match(r"\w+\.\d+\.", name) for name in weights)


def _loaded(name: str, family: str, lacks_base: bool) -> Iterator[str]:
    """What a weight may be called in the model."""
    if family:
        name = EXPERT.sub(r"\1.\2", re.sub(*RENAMED[family], name))
    yield name
    if lacks_base and not name.startswith(HEADS):
        yield from (f"{base}.{name}" for base in BASES)


def _path(name: str) -> Iterator[str]:
    """``model.layers``: ``model``, ``model.layers``."""
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))
