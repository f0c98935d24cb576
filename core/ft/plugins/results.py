"""What a hook returns is what its spec says, checked before anyone relies on it.

Types that would cost an import of torch are known by one method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, Final

from ft.errors import PluginError
from ft_hookspecs import Change, Estimate, ModelFiles, Note, PluginInfo, PluginOptions, Problem

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a hook may return, in words and as a test; ``optional`` when ``None`` leaves it to others."""

    words: str
    test: Test
    optional: bool = False

    def fits(self, result: object) -> bool:
        """Whether ``result`` may be returned."""
        return self.optional if result is None else self.test(result)


def _a(*types: type) -> Test:
    return lambda result: isinstance(result, types)


def _with(method: str) -> Test:
    return lambda result: callable(getattr(result, method, None))


def _several(of: Test) -> Test:
    return lambda result: isinstance(result, tuple) and all(map(of, result))


def _is_finite(result: object) -> bool:
    return isinstance(result, Real) and isfinite(result)


def _is_option_model(result: object) -> bool:
    return isinstance(result, type) and issubclass(result, PluginOptions)


def _is_groups(result: object) -> bool:
    return isinstance(result, list) and all(isinstance(group, dict) and "params" in group for group in result)


def _is_change(result: object) -> bool:
    return isinstance(result, Change) and result.model is not None and bool(result.summary.strip())


_CHANGE: Final = Expected("a Change with the model and a summary of what was done to it", _is_change)
_NOTHING: Final = Expected("None", lambda _: True, optional=True)

EXPECTED: Final[Mapping[str, Expected]] = {
    "ft_options": Expected("a subclass of PluginOptions", _is_option_model),
    "ft_check": Expected("an iterable of Problem and Note", _several(_a(Problem, Note))),
    "ft_locate_model": Expected("a path", _a(Path), optional=True),
    "ft_estimate": Expected("an Estimate", _a(Estimate)),
    "ft_resolve_model": Expected("a ModelFiles", _a(ModelFiles), optional=True),
    "ft_template": Expected("a Template", _with("render"), optional=True),
    "ft_template_names": Expected("an iterable of names", _several(_a(str))),
    "ft_load_dataset": Expected("an iterable of Row", _a(Iterable), optional=True),
    "ft_read_format": Expected("a function of a row", callable, optional=True),
    "ft_check_examples": _NOTHING,
    "ft_prepare_dataset": Expected("a Dataset", _with("__iter__"), optional=True),
    "ft_model_load_options": Expected("a mapping of keyword arguments", _a(Mapping)),
    "ft_load_model": Expected("a model", _with("parameters"), optional=True),
    "ft_add_adapters": Expected("a model", _with("parameters"), optional=True),
    "ft_quantize_model": _CHANGE,
    "ft_adapt_model": _CHANGE,
    "ft_accelerate_model": _CHANGE,
    "ft_callbacks": Expected("an iterable of callbacks", _several(_with("on_step_end"))),
    "ft_build_trainer": Expected("a Trainer", _with("train"), optional=True),
    "ft_parameter_groups": Expected("a list of groups, each with its params", _is_groups, optional=True),
    "ft_create_optimizer": Expected("an Optimizer", _with("step"), optional=True),
    "ft_reward": Expected("an iterable of finite numbers, one for each answer", _several(_is_finite)),
    "ft_log": _NOTHING,
    "ft_save_model": Expected("true when it has saved", _a(bool), optional=True),
    "ft_evaluate": Expected("a mapping of metrics", _a(Mapping)),
    "ft_predict": Expected("a mapping of metrics", _a(Mapping), optional=True),
    "ft_run_finished": _NOTHING,
    "ft_run_failed": _NOTHING,
}

GATHERED: Final = frozenset({"ft_check", "ft_template_names", "ft_callbacks", "ft_reward"})
"""Their iterables are short and are read at once, so that an error on the way is the plugin's and not the caller's."""


def checked(plugin: PluginInfo, hook: str, result: object) -> object:
    """``result``, when the spec of ``hook`` allows it.

    Raises:
        PluginError: it does not.
    """
    if hook in GATHERED and isinstance(result, Iterable) and not isinstance(result, str):
        result = tuple(result)
    expected = EXPECTED[hook]
    if expected.fits(result):
        return result
    raise PluginError(
        f"plugin {plugin} returned {_shown(result)} from {hook}",
        where=plugin.value,
        why=f"{hook} must return {expected.words}{' or None' if expected.optional else ''}",
        remedy="correct the hook's return value",
    )


def _shown(result: object) -> str:
    if isinstance(result, tuple):
        return f"({', '.join(map(_shown, result[:3]))}{', …' if len(result) > 3 else ''})"
    if isinstance(result, Change):
        return "a Change " + ("of no model" if result.model is None else "that says nothing of what it changed")
    return "None" if result is None else f"the {type(result).__name__} {result!r:.60}"
