"""The options of ``transformers.TrainingArguments``, read from its source.

Importing the class costs seconds and all of torch; parsing the file costs tens of milliseconds.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pydantic import Field, create_model

from ft.errors import EnvironmentProblem
from ft_hookspecs import PluginOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULE: Final = "training_args"
_CLASS: Final = "TrainingArguments"
_TYPES: Final[dict[str, Any]] = {
    "int": int, "float": float, "bool": bool, "str": str, "dict": dict, "list": list, "Any": Any, "None": None,
}  # fmt: skip

AT_LEAST: Final = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
         "eval_accumulation_steps", "dataloader_prefetch_factor", "torch_empty_cache_steps", "ddp_bucket_cap_mb"), 1),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "warmup_steps",
         "num_train_epochs", "logging_steps", "save_steps", "eval_steps", "eval_delay", "label_smoothing_factor",
         "neftune_noise_alpha", "dataloader_num_workers", "save_total_limit", "seed", "data_seed", "ddp_timeout"), 0),
    "max_steps": -1,
}  # fmt: skip
"""Lower bounds that the class itself does not state; a key that a version lacks is simply not met."""
BELOW_ONE: Final = ("adam_beta1", "adam_beta2", "label_smoothing_factor")


@lru_cache
def trainer_options(claimed: frozenset[str] = frozenset()) -> type[PluginOptions]:
    """An option model with every field of ``TrainingArguments`` but those claimed by someone else.

    Raises:
        EnvironmentProblem: transformers is not installed, or its source is not where it should be.
    """
    folder = _folder()
    tree = _parse(folder / f"{_MODULE}.py")
    arguments = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == _CLASS)
    declared = [node for node in arguments.body if isinstance(node, ast.AnnAssign)]
    reader = _Reader(_enums(tree, declared, folder), _constants(arguments))
    fields = {
        name: field
        for node in declared
        if (name := ast.unparse(node.target)) not in claimed and (field := reader.field(name, node))
    }
    # The fields are known only now, so the overloads of create_model cannot describe them.
    build = cast("Any", create_model)
    return cast("type[PluginOptions]", build("TrainerOptions", __base__=PluginOptions, __doc__=_DOC, **fields))


_DOC: Final = "Options of `transformers.TrainingArguments`."


class _Reader:
    """Turns one annotated assignment of the class into a pydantic field."""

    def __init__(self, enums: dict[str, tuple[str, ...]], constants: dict[str, Any]) -> None:
        self._enums = enums
        self._constants = constants

    def field(self, name: str, node: ast.AnnAssign) -> tuple[Any, Any] | None:
        """Type and field; none for a field whose type no configuration can write down."""
        settings = {word.arg: word.value for word in getattr(node.value, "keywords", ())}
        metadata = settings.get("metadata")
        told = self._literals(metadata) if isinstance(metadata, ast.Dict) else {}
        kinds = self._alternatives(node.annotation)
        if kinds == [None]:
            return None
        if isinstance(told.get("const"), bool):
            kinds.append(bool)
        if told.get("choices") and str in kinds:
            kinds[kinds.index(str)] = Literal[tuple(told["choices"])]
        default = self._literal(settings["default"]) if "default" in settings else []
        below = 1 if name in BELOW_ONE else None
        about = _one_line(told.get("help", ""))
        return reduce(or_, kinds), Field(default=default, description=about, ge=AT_LEAST.get(name), lt=below)

    def _alternatives(self, node: ast.expr) -> list[Any]:
        """The alternatives of an annotation. An enumeration stands for its values, and then plain text is not one."""
        parts = _union(node)
        named = [choice for part in parts for choice in self._enums.get(getattr(part, "id", ""), ())]
        kinds = [kind for part in parts if (kind := self._type(part)) is not Any or len(parts) == 1]
        if named:
            kinds = [Literal[tuple(named)], *(kind for kind in kinds if kind is not str)]
        return kinds

    def _type(self, node: ast.expr) -> Any:
        """The type of one alternative; ``Any`` for a class that no configuration can write down."""
        if isinstance(node, ast.Constant):
            return None if node.value is None else Any
        if isinstance(node, ast.Name):
            return _TYPES.get(node.id, Any)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id == "Literal":
                return Literal[ast.literal_eval(node.slice)]
            if node.value.id == "list":
                item = self._enums.get(getattr(node.slice, "id", ""))
                return list[Literal[item]] if item else list[self._type(node.slice)]  # type: ignore[misc, valid-type]  # known only at run time
            if node.value.id == "dict":
                return dict[str, Any]
        return Any

    def _literals(self, node: ast.Dict) -> dict[str, Any]:
        pairs = ((key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None)
        return {str(self._literal(key)): self._literal(value) for key, value in pairs}

    def _literal(self, node: ast.expr) -> Any:
        """The value of a literal or of a constant of the class, else none."""
        if isinstance(node, ast.Name):
            return self._constants.get(node.id)
        try:
            return ast.literal_eval(node)
        except ValueError:
            return None


def _union(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_union(node.left), *_union(node.right)]
    return [node]


def _constants(cls: ast.ClassDef) -> dict[str, Any]:
    """The class attributes that are plain constants."""
    return {
        ast.unparse(node.targets[0]): node.value.value
        for node in _statements(cls.body)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements with those under an ``if``: it asks for a version of torch, and ft requires a newer one."""
    for node in body:
        yield from _statements(node.body) if isinstance(node, ast.If) else (node,)


def _enums(tree: ast.Module, declared: list[ast.AnnAssign], folder: Path) -> dict[str, tuple[str, ...]]:
    """The string enumerations that annotations name, with their values: from this module and from its neighbours."""
    words = (node for each in declared for node in ast.walk(each.annotation))
    wanted = {word.id for word in words if isinstance(word, ast.Name)} - set(_TYPES)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and wanted & {alias.name for alias in node.names}:
            classes += _classes(folder / f"{node.module}.py", wanted)
    values = {cls.name: tuple(filter(_is_text, _constants(cls).values())) for cls in classes if cls.name in wanted}
    return {name: members for name, members in values.items() if members}


def _classes(path: Path, wanted: set[str]) -> list[ast.ClassDef]:
    """The wanted classes of a module. Only their text is parsed: the whole module would cost four times as much."""
    blocks = re.findall(r"^class (\w+)([^\n]*\n(?:[ \t][^\n]*\n|\n)*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    source = "".join(f"class {name}{body}" for name, body in blocks if name in wanted)
    return [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _one_line(text: Any) -> str:
    return " ".join(str(text).replace("%%", "%").split())


def _folder() -> Path:
    """The folder of transformers; finding it imports nothing."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("transformers is not installed", remedy="pip install 'transformers>=5.9,<6'")
    return Path(spec.origin).parent


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise EnvironmentProblem(
            f"the source of transformers cannot be read: {error}", where=str(path), remedy="install transformers again"
        ) from None
