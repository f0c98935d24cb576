"""Which modules an adapter acts on, from the names people write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedModel

ALL: Final = "all"
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


def adaptable(module: nn.Module) -> bool:
    """Whether LoRA has a layer for this kind of module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
    return isinstance(module, kinds) or "Linear" in type(module).__name__


def find(
    model: nn.Module,
    names: Sequence[str],
    key: str,
    where: str,
    *,
    whole: bool = False,
    excluding: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """The modules that ``names`` mean: ``all``, the end of a module's name, or the whole of it.

    Args:
        model: before anything was added to it.
        names: as the user wrote them.
        key: the configuration key, for messages.
        where: its place.
        whole: any module can be meant, because it trains as a whole; else only those that LoRA has a layer for.
        excluding: modules, by their names, that cannot be meant.

    Raises:
        ConfigError: a name that means no module; says which are near.
    """
    modules = dict(model.named_modules())
    known = [name for name, module in modules.items() if name and not excluding(name) and (whole or adaptable(module))]
    found: dict[str, None] = {}
    wrong = []
    for name in names:
        matches = linear_layers(model) if name == ALL and not whole else [one for one in known if _ends(one, name)]
        found.update(dict.fromkeys(matches))
        if not matches:
            wrong.append(name)
    if wrong:
        raise _unmatched(wrong, known, key, where)
    return list(found)


def shortest(model: PreTrainedModel, found: Collection[str]) -> list[str]:
    """The names to write into an adapter's configuration: last parts (``q_proj``) if they mean the same, else whole."""
    ends = sorted({name.rpartition(".")[2] for name in found})
    meant = {name for name, _ in model.named_modules() if any(_ends(name, end) for end in ends)}
    return ends if meant == set(found) else sorted(found)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _unmatched(wrong: Sequence[str], known: Iterable[str], key: str, where: str) -> ConfigError:
    ends = sorted({name.rpartition(".")[2] for name in known if not name.rpartition(".")[2].isdecimal()})
    near = [match for name in wrong for match in nearest(name, ends)]
    return ConfigError(
        f"{key}: no module of the model is called {' or '.join(map(repr, wrong))}",
        where=where,
        why="modules are named " + ", ".join(ends[:SHOWN]) + (" …" if len(ends) > SHOWN else ""),
        remedy=f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"name some of them, or {key}: {ALL}",
    )
