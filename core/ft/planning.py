"""From a file and a command line to a checked plan, before anything heavy is imported.

Select (which plugins do the keys name?) → load them → merge their options → resolve every value → check. Selection
needs values and values need the plugins' options, so the keys that select are resolved first, on their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.choosing import Chooser, choose
from ft.combinations import combination_problems
from ft.config import Resolved, answered_keys, gather, json_schema, key_owner, resolve, trainer_options
from ft.data.checks import data_notes
from ft.errors import ConfigError, DataError, EnvironmentProblem, FtError, PluginError, Problems
from ft.launched import by_launcher, launched, launcher_problems
from ft.options import DataOptions, GenerationOptions, ModelOptions, RunOptions
from ft.plugins import PluginManager, exclusions, find_plugins, find_selectors
from ft.precision import precision_problems
from ft.record import check_output_dir
from ft.resuming import check_resumed
from ft.vocabulary import VocabularyOptions
from ft_hookspecs import Note, Plan, PluginOptions, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ft.config import Settings
    from ft.plugins import Found

Owned = tuple[type[PluginOptions], str]

CORE: tuple[Owned, ...] = tuple(
    (model, "ft") for model in (RunOptions, ModelOptions, VocabularyOptions, DataOptions, GenerationOptions)
)
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
        excluded: what ``--no-plugin`` named; ``FT_DISABLE_PLUGINS`` is added.
        environ: where ``FT_*`` values are looked up.

    Raises:
        Problems: everything that is wrong with the configuration, in one report.
        PluginError: a plugin cannot be selected, loaded or verified.
    """
    composition = compose(config_path, arguments, plugins, excluded, environ or {})
    plan = launched(freeze(composition.resolve(), composition.manager, config_path))
    notes = check(plan, composition.manager)
    return replace(plan, notes=(*plan.notes, *(said(note, plan) for note in notes))), composition.manager


def schema(
    config_path: Path | None,
    arguments: Sequence[str] = (),
    plugins: Sequence[str] = (),
    excluded: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """JSON Schema of every key of the composition that these words choose; the arguments are those of make_plan."""
    return json_schema(model for model, _ in compose(config_path, arguments, plugins, excluded, environ or {}).models)


@dataclass(frozen=True)
class Composition:
    """What was given, the loaded plugins, and every option model with its owner."""

    settings: Settings
    found: Found
    manager: PluginManager
    models: tuple[Owned, ...]
    notes: tuple[str, ...] = ()

    def resolve(self) -> Resolved:
        """Every value with its source, or everything that is wrong."""
        found = resolve(self.settings, self.models, owner_of=key_owner(self.found, self.manager.infos))
        return replace(found, notes=(*self.notes, *found.notes))


def compose(
    config_path: Path | None,
    arguments: Sequence[str],
    plugins: Sequence[str],
    excluded: Sequence[str],
    environ: Mapping[str, str],
) -> Composition:
    """Select and load the plugins, and collect their options.

    Raises:
        PluginError: a plugin cannot be had; what else can be judged without it is reported beside it.
    """
    settings, out = gather(config_path, arguments, environ), exclusions(excluded, environ)
    found, manager, selectors = find_plugins(), PluginManager(), find_selectors([each.word for each in out])
    base = (*CORE, *((selector.options, selector.owner) for selector in selectors))
    chooser = Chooser(base, selectors, plugins)
    if measures_only(chooser.values(settings)):
        settings = settings.by_default("do_train", False, "default where do_eval or do_predict is asked for")
    try:
        choice = choose(settings, chooser, found, out)
        for info in choice.plugins:
            manager.load(info)
    except FtError as error:
        if place := settings.place(error.where.partition(":")[0]):
            error.where = f"{place}: {error.where}"  # a wish for a plugin says its key and value
        raise with_other_problems(error, settings, (*base, trainer_model(base))) from error
    models = option_models(base, manager)
    choice = choice.without_options({key for model, _ in models for key in model.model_fields})
    return Composition(choice.settings, found, manager, models, choice.notes)


def measures_only(values: Mapping[str, Any]) -> bool:
    """Evaluation or predictions are asked for: as for transformers, a run then trains only if ``do_train`` says so."""
    return bool(values.get("do_eval") or values.get("do_predict"))


def untrained(values: Mapping[str, Any]) -> Iterable[str]:
    """Said of data to train on that a run without training does not use."""
    if values.get("dataset") and not values.get("do_train", True):
        yield "no training: do_train is off (the default with do_eval or do_predict)"


def with_other_problems(error: FtError, settings: Settings, models: tuple[Owned, ...]) -> FtError:
    """The error, together with everything that is wrong with the keys of these models."""
    names = {name for model, _ in models for name in model.model_fields}
    try:
        resolve(settings.only(names), models)
    except Problems as others:
        return Problems([error, *others.problems])
    return error


def option_models(base: tuple[Owned, ...], manager: PluginManager) -> tuple[Owned, ...]:
    """Every option model of the composition with its owner, TrainingArguments last."""
    own = tuple((model, f"plugin {info}") for info, model in manager.each("ft_options"))
    return (*base, *own, trainer_model((*base, *own)))


def trainer_model(claimed: Iterable[Owned]) -> Owned:
    """TrainingArguments without the keys that ft or a plugin declares, and without those that would do nothing here."""
    declared = {name for model, _ in claimed for name in model.model_fields}
    return trainer_options(frozenset(declared | answered_keys())), "transformers"


def freeze(resolved: Resolved, manager: PluginManager, config_path: Path | None) -> Plan:
    """The plan record."""
    output_dir = resolved.values.get("output_dir")
    return Plan(
        values=resolved.values,
        sources=resolved.sources,
        plugins=manager.infos,
        models=resolved.models,
        output_dir=Path(output_dir) if output_dir else None,
        config_path=config_path,
        notes=(*resolved.notes, *untrained(resolved.values)),
        secrets=resolved.secrets,
    )


def check(plan: Plan, manager: PluginManager) -> list[Note]:
    """The core's checks and every plugin's ``ft_check``: their notes, or all problems in one report.

    Raises:
        Problems: what cannot be combined, with place, reason and remedy.
    """
    problems: list[FtError] = [*launcher_problems(plan)]
    try:
        check_output_dir(plan)
        check_resumed(plan)
    except FtError as error:
        problems.append(error)
    found: list[Problem | Note] = [*precision_problems(plan), *combination_problems(plan, manager), *data_notes(plan)]
    for _, several in manager.each("ft_check", plan=plan):
        found.extend(several)
    problems.extend(as_error(each, plan) for each in found if isinstance(each, Problem))
    if problems:
        raise Problems(problems)
    return [each for each in found if isinstance(each, Note)]


def said(note: Note, plan: Plan) -> str:
    """The note behind the place of the first of its keys that was set."""
    place = next((f"{plan.sources[key]}: " for key in note.keys if plan.is_set(key)), "")
    return f"{place}{note.what}"


def as_error(problem: Problem, plan: Plan) -> FtError:
    """The error of the problem's exit code, placed at the first of its keys that the launcher or the user set."""
    given = [key for key in problem.keys if plan.is_set(key)]
    outside = next((key for key in given if by_launcher(plan.sources[key])), None)
    where = next((str(plan.sources[key]) for key in (outside, *given) if key), "")
    remedy = f"{problem.remedy} ({where} of accelerate launch sets {outside}; torchrun does not)"
    kind = ERRORS.get(problem.exit_code, ConfigError)
    return kind(problem.what, where=where, why=problem.why, remedy=remedy if outside else problem.remedy)
