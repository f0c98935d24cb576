"""From a file and a command line to a checked plan, before anything heavy is imported.

Select (which plugins do the keys name?) → load them → merge their options → resolve every value → check. Selection
needs values and values need the plugins' options, so the keys that select are resolved first, on their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.config import Resolved, gather, key_owner, resolve, trainer_options
from ft.errors import ConfigError, DataError, EnvironmentProblem, FtError, PluginError, Problems
from ft.options import DataOptions, ModelOptions, RunOptions
from ft.plugins import PluginManager, find_plugins, find_selectors, select
from ft.record import check_output_dir
from ft_hookspecs import Plan, PluginOptions, Problem, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ft.config import Settings
    from ft.plugins import Found

Owned = tuple[type[PluginOptions], str]

CORE: tuple[Owned, ...] = ((RunOptions, "ft"), (ModelOptions, "ft"), (DataOptions, "ft"))
ERRORS: dict[int, type[FtError]] = {2: ConfigError, 3: PluginError, 4: DataError, 5: EnvironmentProblem}


def make_plan(
    config_path: Path | None,
    arguments: Sequence[str] = (),
    plugins: Sequence[str] = (),
    excluded: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[Plan, PluginManager]:
    """The frozen plan of a run and the manager with its plugins loaded; every check has passed.

    Args:
        config_path: a YAML or JSON file, or none.
        arguments: ``key=value`` and ``--key value`` words of the command line.
        plugins: what ``--plugin`` named; the file's ``plugins`` come before them.
        excluded: what ``--no-plugin`` and ``FT_DISABLE_PLUGINS`` named.
        environ: where ``FT_*`` values are looked up.

    Raises:
        Problems: everything that is wrong with the configuration, in one report.
        PluginError: a plugin cannot be selected, loaded or verified.
    """
    settings = gather(config_path, arguments, environ or {})
    plan, manager = compose(settings, config_path, plugins, excluded)
    check(plan, manager)
    return plan, manager


def compose(
    settings: Settings, config_path: Path | None, plugins: Sequence[str], excluded: Sequence[str]
) -> tuple[Plan, PluginManager]:
    """Select, load and resolve, without the checks: what ``ft schema`` needs of a composition."""
    found = find_plugins()
    selectors = find_selectors()
    base = (*CORE, *((selector.options, selector.owner) for selector in selectors))
    choosing = resolve_choosing_keys(settings, base, found)
    wishes = [wish for selector in selectors for wish in selector.select(choosing.values)]
    wishes += [Selection(name, "plugins") for name in choosing.values["plugins"]]
    wishes += [Selection(name, "--plugin") for name in plugins]
    manager = PluginManager()
    for info in select(found, wishes, excluded):
        manager.load(info)
    resolved = resolve(settings, option_models(base, manager), owner_of=key_owner(found, manager.infos))
    return freeze(resolved, manager, config_path), manager


def resolve_choosing_keys(settings: Settings, base: tuple[Owned, ...], found: Found) -> Resolved:
    """The core's and the selectors' own keys alone.

    When one of them is wrong, what else can be judged without the plugins is reported beside it.
    """
    names = {name for model, _ in base for name in model.model_fields}
    try:
        return resolve(settings.only(names), base, owner_of=lambda _: None, partial=True)
    except Problems:
        resolve(settings, (*base, trainer_model(base)), owner_of=key_owner(found, ()))
        raise


def option_models(base: tuple[Owned, ...], manager: PluginManager) -> tuple[Owned, ...]:
    """Every option model of the composition with its owner, TrainingArguments last."""
    own = tuple((model, f"plugin {info}") for info, model in manager.each("ft_options"))
    return (*base, *own, trainer_model((*base, *own)))


def trainer_model(claimed: Iterable[Owned]) -> Owned:
    """TrainingArguments without the keys that ft itself declares."""
    return trainer_options(frozenset(name for model, _ in claimed for name in model.model_fields)), "transformers"


def freeze(resolved: Resolved, manager: PluginManager, config_path: Path | None) -> Plan:
    """The plan record."""
    output_dir = resolved.values.get("output_dir")
    return Plan(
        values=resolved.values,
        sources=resolved.sources,
        plugins=tuple(manager.infos),
        models=tuple(resolved.models),
        output_dir=Path(output_dir) if output_dir else None,
        config_path=config_path,
        notes=tuple(resolved.notes),
    )


def check(plan: Plan, manager: PluginManager) -> None:
    """The core's checks and every plugin's ``ft_check``; all problems in one report.

    Raises:
        Problems: what cannot be combined, with place, reason and remedy.
    """
    from ft.training.precision import precision_problems

    problems: list[FtError] = []
    try:
        check_output_dir(plan)
    except FtError as error:
        problems.append(error)
    found: list[Problem] = list(precision_problems(plan))
    for _, several in manager.each("ft_check", plan=plan):
        found.extend(several or ())
    problems.extend(as_error(problem, plan) for problem in found)
    if problems:
        raise Problems(problems)


def as_error(problem: Problem, plan: Plan) -> FtError:
    """The error of the problem's exit code, placed at the first of its keys that the user set."""
    where = next((str(plan.sources[key]) for key in problem.keys if plan.is_set(key)), "")
    kind = ERRORS.get(problem.exit_code, ConfigError)
    return kind(problem.what, where=where, why=problem.why, remedy=problem.remedy)


def values_with_sources(plan: Plan) -> dict[str, dict[str, Any]]:
    """Each key with its value and where it comes from, for ``ft plan``."""
    return {key: {"value": value, "source": str(plan.sources[key])} for key, value in plan.values.items()}
