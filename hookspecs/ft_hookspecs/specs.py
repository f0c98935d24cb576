"""Every hook of the lifecycle, in the order in which a run calls them.

A hook marked ``firstresult`` stops at the first plugin that returns something other than ``None``; the others collect
a list. Parameters are passed by name: a plugin declares those it needs, as plain names without defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ft_hookspecs.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from ft_hookspecs.data import DatasetSource, Example, FormatReader, Row, Template
    from ft_hookspecs.memory import Estimate
    from ft_hookspecs.options import PluginOptions
    from ft_hookspecs.plan import Note, Plan, Problem
    from ft_hookspecs.run import Change, DataCounts, ModelFiles, Run

# ---- configure and check: nothing heavy may be imported here ------------------------------------------------------


@hookspec
def ft_options() -> type[PluginOptions]:
    """The option model of this plugin; its fields become keys of the configuration."""
    raise NotImplementedError


@hookspec
def ft_check(plan: Plan) -> Iterable[Problem | Note]:
    """What cannot be in this plan, and why; and what to know of it. Nothing is loaded yet; must not import torch."""
    raise NotImplementedError


# ---- find the model: files, tokenizer and template, no weights yet ------------------------------------------------


@hookspec(firstresult=True)
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles | None:
    """Find the files behind ``model_name_or_path``; ``None`` when the name is not this plugin's to resolve."""


@hookspec(firstresult=True)
def ft_template(plan: Plan, name: str, tokenizer: PreTrainedTokenizerBase) -> Template | None:
    """The chat template called ``name``; ``None`` when this plugin has none of that name."""


@hookspec
def ft_template_names(plan: Plan) -> Iterable[str]:
    """The names that this plugin's ``ft_template`` knows, to suggest the nearest; nothing heavy may be imported."""
    raise NotImplementedError


# ---- data ---------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def ft_load_dataset(plan: Plan, source: DatasetSource) -> Iterable[Row | Exception] | None:
    """The rows of a data set, in order, each with its place; ``None`` when the source is not this plugin's to read.

    A row that cannot be read, among others that can, is given as the ``ft.errors.DataError`` that says so: whether it
    stops the run or is left out and counted is ``on_bad_row``'s to say. What breaks the whole file is raised.
    """


@hookspec(firstresult=True)
def ft_read_format(plan: Plan, source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    """A reader for the rows of this source. ``columns`` are those of its first row.

    Answer when ``source.formatting`` is this plugin's name, or, when it is empty, when the columns are unmistakably its
    own; else ``None``.
    """


@hookspec
def ft_check_examples(plan: Plan, examples: Sequence[Example]) -> None:
    """Raise the ``ft.errors.DataError`` that the run would raise for examples of a kind that it cannot learn from.

    Called by ``ft plan`` with the first few examples of each data set; must not import torch. With ``on_bad_row: skip``
    it is called with one at a time.
    """


@hookspec(firstresult=True)
def ft_prepare_dataset(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset | None:
    """Token ids and labels for one split, by the stage. ``run.tokenizer`` and ``run.template`` are set.

    What is dropped or cut must be counted in ``counts``.
    """


# ---- estimate: still nothing heavy ------------------------------------------------------------------------------


@hookspec(firstresult=True)
def ft_locate_model(plan: Plan, name: str) -> Path | None:
    """The model's folder or GGUF file, if it is on this machine already; nothing is fetched, converted or imported."""


@hookspec
def ft_estimate(plan: Plan, estimate: Estimate) -> Estimate:
    """Correct what is expected of the run's memory, with ``dataclasses.replace``; must not import torch.

    Each plugin gets the estimate that the one before it returned.
    """
    raise NotImplementedError


# ---- load and change the model ------------------------------------------------------------------------------------


@hookspec
def ft_model_load_options(run: Run) -> Mapping[str, Any]:
    """Keyword arguments for ``from_pretrained``. Two plugins that want different values for one are an error."""
    raise NotImplementedError


@hookspec(firstresult=True)
def ft_load_model(run: Run, files: ModelFiles, options: Mapping[str, Any]) -> PreTrainedModel | None:
    """Load the model in this plugin's own way; ``None`` leaves it to transformers."""


@hookspec(firstresult=True)
def ft_add_adapters(plan: Plan, model: PreTrainedModel, names: list[str]) -> PreTrainedModel | nn.Module | None:
    """A model that does not train (a reference, a reward model) with adapters, applied in order; ``None``: not mine."""


@hookspec
def ft_quantize_model(run: Run, model: PreTrainedModel) -> Change:
    """Replace weights by quantised ones. Called on quantizers in order, each on the model the one before returned."""
    raise NotImplementedError


@hookspec
def ft_adapt_model(run: Run, model: PreTrainedModel) -> Change:
    """Decide what trains: add adapters, freeze or unfreeze. ``Change.modules`` names the modules that train."""
    raise NotImplementedError


@hookspec
def ft_accelerate_model(run: Run, model: PreTrainedModel) -> Change:
    """Replace parts of the model by faster ones with the same mathematics."""
    raise NotImplementedError


# ---- train --------------------------------------------------------------------------------------------------------


@hookspec
def ft_callbacks(run: Run) -> Iterable[TrainerCallback]:
    """Callbacks to add to the trainer."""
    raise NotImplementedError


@hookspec(firstresult=True)
def ft_build_trainer(run: Run, callbacks: list[TrainerCallback]) -> Trainer | None:
    """The trainer of this stage: normally ``ft.training.PackedTrainer`` with the stage's loss."""


@hookspec(firstresult=True)
def ft_parameter_groups(run: Run, model: nn.Module) -> list[dict[str, Any]] | None:
    """The parameters that train, each once, in groups with ``params`` and perhaps ``lr`` and ``weight_decay``.

    ``None`` leaves them in two: what decays, and biases and norms, which do not. Every optimizer is made of them.
    """


@hookspec(firstresult=True)
def ft_create_optimizer(run: Run, model: nn.Module) -> Optimizer | None:
    """An optimizer over ``ft.training.parameter_groups(run, model)``; ``None`` leaves it to ``optim``.

    The trainer calls it, through ``run.make_optimizer``, once the model is wrapped for training.
    """


@hookspec
def ft_reward(run: Run, prompts: list[str], answers: list[str]) -> Iterable[float]:
    """One number for each answer, the better the higher. Several plugins' rewards, and the reward model's, add up.

    Called for each rollout of a stage that learns from rewards. Texts are plain: a prompt is rendered and ends where
    its answer begins.
    """
    raise NotImplementedError


@hookspec
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    """One row of metrics: ``event`` (``train``, ``eval``, ``final``), ``step``, ``epoch`` and the values.

    Called in the main process only. A logger that raises is reported once and left out of the rest of the run.
    """


# ---- save, evaluate, predict --------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def ft_save_model(run: Run, model: PreTrainedModel | nn.Module, folder: Path) -> bool | None:
    """Write what trained into ``folder`` so that peft and transformers load it without ft; true when done."""


@hookspec
def ft_evaluate(run: Run, trainer: Trainer, when: str) -> Mapping[str, float]:
    """Metrics for the ``final`` row. ``when`` is ``before`` (step 0, only if asked for) or ``after``."""
    raise NotImplementedError


@hookspec(firstresult=True)
def ft_predict(run: Run, trainer: Trainer) -> Mapping[str, float] | None:
    """Write predictions for the evaluation data into ``run.output_dir`` and return their metrics."""


# ---- end ----------------------------------------------------------------------------------------------------------


@hookspec
def ft_run_finished(run: Run) -> None:
    """The run has ended well; everything has been written."""


@hookspec
def ft_run_failed(run: Run, error: BaseException) -> None:
    """The run has failed. Called once, before the error is shown; the error goes on whatever happens here."""


PHASES: Final[Mapping[str, tuple[str, ...]]] = {
    "configure": ("ft_options",),
    "check": ("ft_check",),
    "find model": ("ft_resolve_model", "ft_template", "ft_template_names"),
    "data": ("ft_load_dataset", "ft_read_format", "ft_check_examples", "ft_prepare_dataset"),
    "estimate": ("ft_locate_model", "ft_estimate"),
    "load": ("ft_model_load_options", "ft_load_model", "ft_add_adapters"),
    "surgery": ("ft_quantize_model", "ft_adapt_model", "ft_accelerate_model"),
    "train": (
        "ft_callbacks",
        "ft_build_trainer",
        "ft_parameter_groups",
        "ft_create_optimizer",
        "ft_reward",
        "ft_log",
    ),
    "save": ("ft_save_model",),
    "evaluate": ("ft_evaluate",),
    "predict": ("ft_predict",),
    "end": ("ft_run_finished", "ft_run_failed"),
}
"""The phases of a run in their order, each with its hooks."""
