"""A plugin fits the contract, or the run does not begin.

pluggy passes over much in silence (a parameter with a default gets its default, a misspelt hook is never called); here
each is an error with the nearest name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ft.errors import FtError, PluginError, Problems, did_you_mean
from ft.plugins.loading import attribute
from ft_hookspecs import API_VERSION, PluginInfo, specs

if TYPE_CHECKING:
    import pluggy

HookFunction = Callable[..., Any]

HOOKS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        name: tuple(inspect.signature(spec).parameters)
        for name, spec in vars(specs).items()
        if name.startswith("ft_") and inspect.isfunction(spec)
    }
)
"""Every hook with its parameters, in the order of the specs."""

REFUSED_MARKS: Final = ("wrapper", "hookwrapper", "optionalhook")


class Marked(NamedTuple):
    """A function marked with ``@hookimpl``, the hook it implements, and its marks."""

    hook: str
    function: HookFunction
    marks: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """−1 for ``tryfirst``, 1 for ``trylast``, 0 for neither."""
        return bool(self.marks.get("trylast")) - bool(self.marks.get("tryfirst"))


def verify(plugin: PluginInfo, loaded: object, manager: pluggy.PluginManager) -> list[Marked]:
    """The plugin's hooks, each proven callable with parameters of the spec.

    Raises:
        PluginError: it is written for another version of the API, has no hook, or one that does not fit.
        Problems: it has several that do not fit.
    """
    stated = attribute(plugin, loaded, "ft_api_version")
    if stated not in (None, API_VERSION):
        raise _misfit(
            plugin,
            f"is written for version {stated} of ft's plugin API",
            why=f"this ft has version {API_VERSION}",
            remedy=f"install a version of {plugin.distribution} for this ft, or the ft it was written for",
        )
    if inspect.isclass(loaded):
        raise _misfit(plugin, f"is the class {loaded.__name__}", remedy="name a module or an instance instead")
    hooks = list(_hooks(plugin, loaded, manager))
    problems: list[FtError] = [problem for hook in hooks for problem in _problems(plugin, hook)]
    problems += _unmarked(plugin, loaded, {marked.hook for marked in hooks})
    if not hooks and not problems:
        problems = [_misfit(plugin, "has no hook", remedy="mark its functions with @hookimpl of ft_hookspecs")]
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return hooks


def _hooks(plugin: PluginInfo, loaded: object, manager: pluggy.PluginManager) -> Iterator[Marked]:
    seen: dict[str, str] = {}
    for name in dir(loaded):
        marks = manager.parse_hookimpl_opts(loaded, name)
        if marks is None:
            continue
        hook = marks.get("specname") or name
        if hook in seen:
            raise _misfit(plugin, f"implements {hook} twice, as {seen[hook]} and as {name}", remedy="leave one")
        seen[hook] = name
        yield Marked(hook, getattr(loaded, name), marks)


def _problems(plugin: PluginInfo, marked: Marked) -> Iterator[PluginError]:
    hook, function, marks = marked
    where = _line(function)
    if hook not in HOOKS:
        remedy = did_you_mean(hook, HOOKS) or f"the hooks are {', '.join(HOOKS)}"
        yield _misfit(plugin, f"implements {hook!r}, which is not a hook", where=where, remedy=remedy)
        return
    for mark in REFUSED_MARKS:
        if marks.get(mark):
            why = "hooks are called one by one, and only those that exist"
            yield _misfit(plugin, f"marks {hook} with {mark}", where=where, why=why, remedy="use plain @hookimpl")
    if inspect.iscoroutinefunction(function):
        yield _misfit(plugin, f"makes {hook} async", where=where, remedy="write a plain function")
    for parameter in inspect.signature(function).parameters.values():
        yield from _parameter_problem(plugin, hook, parameter, where)


def _parameter_problem(
    plugin: PluginInfo, hook: str, parameter: inspect.Parameter, where: str
) -> Iterator[PluginError]:
    allowed = HOOKS[hook]
    known = f"{hook} offers {', '.join(allowed)}" if allowed else f"{hook} has no parameters"
    if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
        yield _misfit(
            plugin,
            f"declares {str(parameter)!r} in {hook}",
            where=where,
            why="a hook's parameters are plain names without defaults, *, ** or keyword-only; " + known,
            remedy=f"write def {hook}({', '.join(allowed)}), or fewer of these",
        )
    elif parameter.name not in allowed:
        remedy = did_you_mean(parameter.name, allowed) or "take it out"
        yield _misfit(plugin, f"wants {parameter.name!r} in {hook}", where=where, why=known, remedy=remedy)


def _unmarked(plugin: PluginInfo, loaded: object, hooks: Collection[str]) -> Iterator[PluginError]:
    """A function with a hook's name and no mark would never be called."""
    for hook in HOOKS:
        function = inspect.getattr_static(loaded, hook, None)
        if hook not in hooks and inspect.isfunction(function):
            remedy = "mark it with @hookimpl of ft_hookspecs"
            yield _misfit(plugin, f"has a function {hook} that is not marked", where=_line(function), remedy=remedy)


def _line(function: HookFunction) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _misfit(plugin: PluginInfo, what: str, *, where: str = "", why: str = "", remedy: str = "") -> PluginError:
    error = PluginError(f"plugin {plugin} {what}", where=where or plugin.value, why=why, remedy=remedy)
    error.plugin = plugin
    return error
