"""Which modules an adapter acts on, from the names people write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.errors import ConfigError, nearest, refusals

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ft_hookspecs import Plan, Problem
    from ft_plugins.models._layout import Layout

ALL: Final = "all"
HEAD: Final = "lm_head"
SHOWN: Final = 8
"""Module names in an error message."""


def linear_layers(model: nn.Module) -> list[str]:
    """Every linear layer but the head, quantised or not (their classes keep the word in their name)."""
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        name
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, (nn.Linear, Conv1D)) or "Linear" in type(module).__name__)
    ]


def modules(model: nn.Module) -> list[str]:
    """Every module by name."""
    return [name for name, _ in model.named_modules() if name]


def matrices(model: nn.Module) -> list[str]:
    """The modules that LoRA has a layer for."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
    found = model.named_modules()
    return [name for name, module in found if isinstance(module, kinds) or "Linear" in type(module).__name__]


def match(
    names: Sequence[str], known: Collection[str], key: str, where: str = "", *, every: Collection[str] | None = None
) -> list[str]:
    """The modules that ``names`` mean: ``all``, the end of a module's name, or the whole of it.

    Args:
        names: as the user wrote them.
        known: the modules that can be meant.
        key: the configuration key, for messages.
        where: its place.
        every: what ``all`` means, where it means something.

    Raises:
        ConfigError: a name that means no module; says which are near.
    """
    found: dict[str, None] = {}
    wrong = []
    for name in names:
        matches = every if name == ALL and every is not None else meant(known, [name])
        found.update(dict.fromkeys(matches))
        if not matches:
            wrong.append(name)
    if wrong:
        raise _unmatched(wrong, known, key, where, "" if every is None else f", or {key}: {ALL}")
    return list(found)


def problems(plan: Plan, layout: Layout | None, key: str, *, whole: bool = False) -> list[Problem]:
    """Names of ``key`` that mean no module, as far as the model's files are here.

    Any module can be meant by what trains as a ``whole``, else only those that LoRA has a layer for.
    """
    if layout is None:
        return []
    known = layout.modules if whole else layout.matrices
    return refusals(lambda: match(plan.get(key) or (), known, key, every=None if whole else known), key)


def shortest(model: PreTrainedModel, found: Collection[str], *, whole: bool = False) -> list[str]:
    """The names to write into an adapter's configuration: last parts (``q_proj``) if they mean the same, else whole.

    For modules that train as a ``whole`` peft compares letters: its ``norm`` is ``input_layernorm`` too.
    """
    ends, every = sorted({name.rpartition(".")[2] for name in found}), modules(model)
    same = [name for name in every if name.endswith(tuple(ends))] if whole else meant(every, ends)
    return ends if set(same) == set(found) else sorted(found)


def meant(known: Iterable[str], ends: Iterable[str]) -> list[str]:
    """Those of the names that are one of ``ends``, or end in one."""
    dotted = tuple(f".{end}" for end in ends)
    return [name for name in known if f".{name}".endswith(dotted)]


def _unmatched(wrong: Sequence[str], known: Iterable[str], key: str, where: str, otherwise: str) -> ConfigError:
    ends = sorted({name.rpartition(".")[2] for name in known if not name.rpartition(".")[2].isdecimal()})
    near = [match for name in wrong for match in nearest(name, ends)]
    return ConfigError(
        f"{key}: no module of the model is called {' or '.join(map(repr, wrong))}",
        where=where,
        why="modules are named " + ", ".join(ends[:SHOWN]) + (" …" if len(ends) > SHOWN else ""),
        remedy=f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"name some of them{otherwise}",
    )
