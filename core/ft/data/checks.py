"""What the keys of the data cannot be together: found while planning, before a row is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ft.data.reading import split_name
from ft.data.sources import dataset_sources
from ft.errors import FtError
from ft.options import DataOptions
from ft_hookspecs import Note, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import DatasetSource, Plan

OF_ROWS: Final = (
    *("max_samples", "val_size", "mix_strategy", "interleave_probs", "overwrite_cache"),
    *("preprocessing_num_workers", "preprocessing_batch_size"),
)


def data_problems(plan: Plan) -> Iterator[Problem]:
    """The problems of mixing, of streaming, and of keys that would have no effect."""
    options = plan.of(DataOptions)
    yield from _mixing(options)
    if options.streaming:
        yield from _streaming(plan, options)
    elif _asks(options, "buffer_size"):
        yield Problem(
            "buffer_size has no effect", why="it belongs to streaming", remedy="take it out", keys=("buffer_size",)
        )
    if options.eval_on_each_dataset:
        yield from _each(plan, options)
    if options.tokenized_path and not (options.dataset or options.eval_dataset):
        yield from _kept(options)
    if _asks(options, "split") and not any(_is_remote(source) for source in _sources(plan, "dataset", "eval_dataset")):
        yield Problem(
            "split has no effect",
            why="only a data set on the hub has parts; files are read whole",
            remedy="take it out, or name the file of that part",
            keys=("split",),
        )


def data_notes(plan: Plan) -> Iterator[Note]:
    """Keys that do nothing while streaming, and whose absence would change nothing."""
    for key in ("preprocessing_num_workers", "dataloader_num_workers") if plan.get("streaming") else ():
        if plan.get(key):
            yield Note(f"{key} has no effect: a stream is read and tokenised by the processes that train", (key,))


def _asks(options: DataOptions, key: str) -> bool:
    """Whether a key says something else than its default, which a file may write out."""
    return bool(getattr(options, key) != DataOptions.model_fields[key].default)


def _mixing(options: DataOptions) -> Iterator[Problem]:
    if options.interleave_probs is None:
        return
    keys = ("interleave_probs", "mix_strategy")
    if options.mix_strategy == "concat":
        yield Problem(
            "interleave_probs has no effect with mix_strategy: concat",
            why="one data set follows the other",
            remedy="set mix_strategy to interleave_under or interleave_over, or take interleave_probs out",
            keys=keys,
        )
    elif len(options.interleave_probs) != len(options.dataset or ()):
        yield Problem(
            f"interleave_probs has {len(options.interleave_probs)} shares for {len(options.dataset or ())} data sets",
            why="each data set of dataset needs one",
            remedy="give as many shares as there are data sets, in their order",
            keys=keys,
        )


def _streaming(plan: Plan, options: DataOptions) -> Iterator[Problem]:
    refused = {
        "tokenized_path": "nothing is written while streaming",
        "overwrite_cache": "nothing is written while streaming",
    }
    for key, why in refused.items():
        if plan.get(key):
            yield Problem(f"{key} cannot be used with streaming", why=why, remedy="choose one", keys=(key, "streaming"))
    for key in ("eval_strategy", "save_strategy", "logging_strategy"):
        if plan.get(key) == "epoch":
            yield Problem(
                f"{key}: epoch cannot be used with streaming",
                why="a stream has no end to wait for: pass follows pass",
                remedy=f"set {key}: steps",
                keys=(key, "streaming"),
            )
    if plan.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        yield Problem(
            f"train_sampling_strategy: {plan.get('train_sampling_strategy')} cannot be used with streaming",
            why="it sorts the whole data set",
            remedy="take it out; rows are shuffled within buffer_size",
            keys=("train_sampling_strategy", "streaming"),
        )
    if 0 < options.val_size < 1 or options.val_size > options.buffer_size:
        yield Problem(
            f"val_size: {options.val_size:g} cannot be used with streaming",
            why="what is held out is chosen from the first buffer_size rows; a share of an unread stream is unknown",
            remedy="give a whole number from 1 to buffer_size, or eval_dataset",
            keys=("val_size", "streaming"),
        )
    remote = [source.name for source in _sources(plan, "dataset") if _is_remote(source)]
    if remote and (plan.get("max_steps") or 0) <= 0:
        yield Problem(
            f"how long to train on {remote[0]} is unknown",
            why="a stream from the hub has no length, so that num_train_epochs does not give a number of steps",
            remedy="set max_steps",
            keys=("max_steps", "streaming"),
        )


def _kept(options: DataOptions) -> Iterator[Problem]:
    """Keys that say how tokens are made of data, where the tokens are all there is."""
    for key in OF_ROWS:
        if _asks(options, key):
            yield Problem(
                f"{key} has no effect: tokenized_path is used as it is",
                why="without dataset and eval_dataset there is no data to make tokens of",
                remedy=f"take {key} out, or give dataset",
                keys=(key, "tokenized_path"),
            )


def _each(plan: Plan, options: DataOptions) -> Iterator[Problem]:
    names = [split_name(source) for source in _sources(plan, "eval_dataset")]
    if not options.eval_dataset:
        yield Problem(
            "eval_on_each_dataset has no effect without eval_dataset",
            remedy="give eval_dataset, or take it out",
            keys=("eval_on_each_dataset",),
        )
    elif twice := next((name for name in names if names.count(name) > 1 or name == "train"), None):
        yield Problem(
            f"two splits would be called {twice!r}",
            why="eval_on_each_dataset measures each data set by its own name",
            remedy="name them in dataset_info.json",
            keys=("eval_on_each_dataset", "eval_dataset"),
        )
    elif len(names) > 1 and _chooses(plan) and not any(_metric(plan).startswith(f"{name}_") for name in names):
        yield Problem(
            f"metric_for_best_model: {_metric(plan)} is not measured",
            why="eval_on_each_dataset measures each data set by its own name",
            remedy=f"set metric_for_best_model: {names[0]}_{_metric(plan)}, or that of another of them",
            keys=("metric_for_best_model", "eval_on_each_dataset"),
        )


def _chooses(plan: Plan) -> bool:
    """Whether one metric says what is best while training."""
    plateau = plan.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    return bool(plan.get("load_best_model_at_end") or plan.get("save_strategy") == "best" or plateau)


def _metric(plan: Plan) -> str:
    return str(plan.get("metric_for_best_model") or "loss").removeprefix("eval_")


def _sources(plan: Plan, *keys: str) -> list[DatasetSource]:
    """The data sets as far as they can be found; what cannot is told when it is read."""
    try:
        return [source for key in keys for source in dataset_sources(plan, key)]
    except FtError:
        return []


def _is_remote(source: DatasetSource) -> bool:
    return not Path(source.location).is_absolute()
