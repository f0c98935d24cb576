"""The life of a run, on one page.

Each phase is a line here and a function below; a hook is called nowhere else. What a hook must and must not do is in
``ft_hookspecs.specs``; what a phase needs from the ones before it is in the comments.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ft import surgery
from ft.auxiliary_models import load_other, rewarder
from ft.cores import share_cores
from ft.errors import DataError, PluginError, Stopped
from ft.plugins.callbacks import trainer_callbacks
from ft.quantization import quantizer
from ft.record import Journal
from ft.resuming import changes_since
from ft_hookspecs import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets import Dataset

    from ft.data import Examples
    from ft.plugins import PluginManager
    from ft_hookspecs import DataCounts, Plan


def run(plan: Plan, plugins: PluginManager, tell: Callable[[str], None] = lambda _: None) -> Run:
    """Carry out a plan whose checks have all passed, and return the record of it.

    Args:
        plan: what to do.
        plugins: who does it.
        tell: shown a line for each thing done and each decision taken.

    Raises:
        FtError: with the exit code of its kind. ``run.json`` says ``failed`` and why; nothing that stood in
            ``output_dir`` before is lost unless ``overwrite_output_dir`` was asked for.
        Stopped: a signal ended the run after it had saved.
    """
    run = Run(plan, tell)
    plugins.report = lambda error: tell(str(error))
    journal = Journal(run)
    journal.begin()
    try:
        for note in plan.notes:
            tell(note)
        share_cores(run)  # before torch is imported
        find_model(run, plugins)  # files and tokenizer: no weights yet
        prepare_data(run, plugins)  # rows → messages → token ids; bad data stops the run before weights are loaded
        estimate_memory(run, plugins)
        load_model(run, plugins)
        change_model(run, plugins)  # quantise → adapt → accelerate: what trains is settled here
        build_trainer(run, plugins)
        open_record(run, journal)  # from here on, output_dir is this run's
        evaluate(run, plugins, "before")
        train(run)
        save(run, plugins)  # saved before the last evaluation: a failure there costs a figure, not the model
        evaluate(run, plugins, "after")
        predict(run, plugins)
        finish(run, plugins, journal)
    except BaseException as error:
        journal.end("stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed", error)
        plugins.isolated("ft_run_failed", run=run, error=error)  # this error is shown, whatever a plugin does now
        raise
    return run


def find_model(run: Run, plugins: PluginManager) -> None:
    """``ft_resolve_model`` finds the files; the tokenizer is loaded, and ``ft_template`` gives the chat template."""
    from ft.data import template_for
    from ft.modeling import load_tokenizer
    from ft.vocabulary import extend_tokenizer

    name = run.plan.get("model_name_or_path")
    run.model_files = plugins.hook.ft_resolve_model(plan=run.plan, name=name)
    if run.model_files is None:
        raise DataError(f"no plugin can find the model {name!r}", remedy="give a folder, a .gguf file or a hub id")
    run.tokenizer = load_tokenizer(run.model_files, run.plan, run.decide)
    extend_tokenizer(run)
    run.template = template_for(plugins.hook, run.plan, run.tokenizer)
    run.tell(f"model: {run.model_files.description or run.model_files.path}")


def estimate_memory(run: Run, plugins: PluginManager) -> None:
    """``ft_estimate`` corrects what the files and keys say; too much for the device is said, not refused."""
    from ft.estimate import estimate_or_note, room, warning

    assert run.model_files is not None
    path = Path(run.model_files.path)
    columns = getattr(run.train_dataset, "column_names", None) or ()
    lengths = run.train_dataset["length"] if run.train_dataset is not None and "length" in columns else ()
    found = estimate_or_note(run.plan, plugins, path if path.exists() else None, lengths)
    if isinstance(found, str):
        run.decide(found)
        return
    run.estimate = found
    for line in (*found.notes, warning(found, room(run.plan))):
        if line:
            run.decide(line)


def prepare_data(run: Run, plugins: PluginManager) -> None:
    """``ft_load_dataset`` and ``ft_read_format`` make examples of rows; ``ft_prepare_dataset`` makes token ids."""
    from ft.data import load_splits, rare_gc

    with rare_gc():
        for split, examples, counts in load_splits(plugins.hook, run.plan):
            dataset = tokenise(run, plugins, split, examples, counts)
            run.counts[split] = counts
            if split == "train":
                run.train_dataset = dataset
            else:
                run.eval_datasets[split] = dataset


def tokenise(run: Run, plugins: PluginManager, split: str, examples: Examples, counts: DataCounts) -> Dataset:
    """One split through the stage; empty is an error, because a run that learns nothing must not look like one."""
    from ft.data import SPLIT, none_left

    run.stash[SPLIT] = split
    dataset = plugins.hook.ft_prepare_dataset(run=run, examples=examples, counts=counts)
    if dataset is None:
        raise PluginError(
            f"the stage {run.plan.get('stage')!r} prepares no data", remedy="implement ft_prepare_dataset"
        )
    if not hasattr(dataset, "__len__"):  # a stream says so itself, when a pass gave nothing
        run.tell(f"data: {split}: read and tokenised while training")
        return dataset
    run.tell(f"data: {split}: {counts}")
    if len(dataset) == 0:
        raise none_left(split, counts)
    return dataset


def load_model(run: Run, plugins: PluginManager) -> None:
    """``ft_model_load_options`` are merged, and ``ft_load_model`` or transformers loads the weights."""
    from ft.modeling import check_vocabulary, load_model, merge_load_options
    from ft.vocabulary import fit_embeddings

    assert run.model_files is not None
    options = merge_load_options(plugins.each("ft_model_load_options", run=run))
    model = plugins.hook.ft_load_model(run=run, files=run.model_files, options=options)
    run.model = model if model is not None else load_model(run.model_files, options, run.plan, run.decide)
    fit_embeddings(run)
    check_vocabulary(run.model, run.tokenizer)


def change_model(run: Run, plugins: PluginManager) -> None:
    """``ft_quantize_model`` → ``ft_adapt_model`` → ``ft_accelerate_model``, each on what the one before returned."""
    from transformers import set_seed

    set_seed(run.plan.get("seed", 42))  # new weights (an adapter's, a head's) are the same for the same seed
    if quantizer(run.plan):
        surgery.apply(run, plugins, "ft_quantize_model")
    surgery.check_quantised(run)
    for hook in ("ft_adapt_model", "ft_accelerate_model"):
        surgery.apply(run, plugins, hook)
    surgery.check_something_trains(run)


def build_trainer(run: Run, plugins: PluginManager) -> None:
    """``ft_callbacks`` are collected; the stage's ``ft_build_trainer`` makes the trainer.

    The trainer calls ``ft_create_optimizer`` through ``run.make_optimizer``, which calls ``ft_parameter_groups``
    through ``run.group_parameters``, and ``ft_reward`` through ``run.rewarders``.
    """
    from transformers import EarlyStoppingCallback

    from ft.training.context import check_context
    from ft.training.metric_rows import RowCallback

    check_context(run)
    callbacks = trainer_callbacks(run, plugins)
    if patience := run.plan.get("early_stopping_steps"):
        callbacks.append(EarlyStoppingCallback(patience))
    rows = RowCallback(run, plugins)
    run.rewarders = {info: rewarder(run, plugins, info) for info in plugins.implementers("ft_reward")}
    run.load_other = partial(load_other, run, plugins)
    run.group_parameters = lambda model: plugins.hook.ft_parameter_groups(run=run, model=model)
    run.make_optimizer = lambda model: plugins.hook.ft_create_optimizer(run=run, model=model)
    run.trainer = plugins.hook.ft_build_trainer(run=run, callbacks=[rows, *callbacks])
    if run.trainer is None:
        raise PluginError(f"the stage {run.plan.get('stage')!r} builds no trainer", remedy="implement ft_build_trainer")


def open_record(run: Run, journal: Journal) -> None:
    """Find the checkpoint to resume, make room, and write what is known so far: a killed run can be read."""
    from ft.training import checkpoint_to_resume

    checkpoint = checkpoint_to_resume(run.plan, run.decide)
    run.resumed_from = str(checkpoint) if checkpoint else None
    for line in changes_since(run.plan) if checkpoint else ():
        run.decide(line)
    journal.take_over()
    journal.write("training")


def train(run: Run) -> None:
    """The trainer trains, from the beginning or from the checkpoint; what a stream gave is told, however it ends."""
    if not run.plan.get("do_train", True):
        return
    assert run.trainer is not None
    try:
        run.trainer.train(resume_from_checkpoint=run.resumed_from)
    finally:
        if run.train_dataset is not None and not hasattr(run.train_dataset, "__len__"):
            run.tell(f"data: train: {run.counts['train']}")


def evaluate(run: Run, plugins: PluginManager, when: str) -> None:
    """``ft_evaluate``: before training only with ``eval_on_start``, after it whenever there is something to measure."""
    if when == "before" and not run.plan.get("eval_on_start"):
        return
    for _, metrics in plugins.each("ft_evaluate", run=run, trainer=run.trainer, when=when):
        run.metrics.update(metrics)


def predict(run: Run, plugins: PluginManager) -> None:
    """``ft_predict`` with ``do_predict``."""
    if run.plan.get("do_predict"):
        run.metrics.update(plugins.hook.ft_predict(run=run, trainer=run.trainer) or {})


def save(run: Run, plugins: PluginManager) -> None:
    """``ft_save_model`` writes what trained, then the tokenizer; the model card comes last, with the metrics."""
    from ft.modeling import save_tokenizer
    from ft.training import save_value_head

    assert run.trainer is not None
    if not run.plan.get("do_train", True) or not run.trainer.is_world_process_zero():
        return
    if not plugins.hook.ft_save_model(run=run, model=run.model, folder=run.output_dir):
        raise PluginError("no plugin saved the model", remedy="the adapter must implement ft_save_model")
    assert run.tokenizer is not None
    assert run.model is not None
    save_value_head(run.model, run.output_dir)
    save_tokenizer(run.tokenizer, run.template, run.output_dir)


def finish(run: Run, plugins: PluginManager, journal: Journal) -> None:
    """The ``final`` row, the record, the card and ``ft_run_finished``."""
    from ft.card import write_card
    from ft.training.metric_rows import final_row

    assert run.trainer is not None
    if run.trainer.is_world_process_zero():
        plugins.isolated("ft_log", run=run, row=final_row(run))
    journal.end("finished")
    if run.plan.get("do_train", True):
        write_card(run, run.output_dir)
    plugins.isolated("ft_run_finished", run=run)
