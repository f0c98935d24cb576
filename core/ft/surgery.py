"""What plugins do to the model, one after the other, and the two rules that keep it honest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.errors import ConfigError, PluginError, TrainingError
from ft.quantization import quantization_of, quantizer

if TYPE_CHECKING:
    from ft.plugins import PluginManager
    from ft_hookspecs import Change, PluginInfo, Run


def apply(run: Run, plugins: PluginManager, hook: str) -> None:
    """Call ``hook`` on each plugin in order of selection, each on the model that the one before returned.

    Raises:
        PluginError: two plugins claim the same module; or one says nothing of what it changed (``plugins.call``).
    """
    claimed: dict[str, PluginInfo] = {}
    for info in plugins.implementers(hook):
        change = plugins.call(info, hook, run=run, model=run.model)
        check_claims(claimed, info, change)
        run.model = change.model
        run.changes.append((info, change))
        run.tell(f"{info.name}: {change.summary}")


def check_claims(claimed: dict[str, PluginInfo], info: PluginInfo, change: Change) -> None:
    """Two plugins of one kind may not both rewrite a module: the second would undo or double the first."""
    for module in sorted(change.modules):
        if module in claimed:
            raise PluginError(
                f"plugins {claimed[module]} and {info} both change the module {module!r}",
                remedy=f"leave {claimed[module].name} or {info.name} out",
            )
        claimed[module] = info


def check_quantised(run: Run) -> None:
    """Quantised weights that no plugin of the run answers for: nobody has checked whether they can be trained through.

    Raises:
        ConfigError: the model's files were quantised, which could not be known while planning.
    """
    assert run.model is not None
    name = quantization_of(run.model)
    if name is not None and quantizer(run.plan) is None:
        raise ConfigError(
            f"the model's files are quantised ({name}), which was not known while planning",
            where=str(run.plan.sources.get("model_name_or_path", "")),
            why="they had not been fetched then",
            remedy="start the run again now that they are here, or add the plugin that knows them: "
            "--plugin prequantized",
        )


def check_something_trains(run: Run) -> None:
    """A run in which no parameter has a gradient would end well and learn nothing."""
    assert run.model is not None
    if not any(parameter.requires_grad for parameter in run.model.parameters()):
        raise TrainingError(
            "no parameter of the model trains",
            why="; ".join(f"{info.id}: {change.summary}" for info, change in run.changes) or "no adapter acted",
            remedy="choose a finetuning_type that trains something",
        )
