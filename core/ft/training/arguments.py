"""From a plan to ``transformers.TrainingArguments``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import TrainingArguments

from ft.errors import ConfigError, EnvironmentProblem
from ft.launched import by_launcher
from ft.training.capability import base_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ft_hookspecs import Plan, Run

LIFECYCLE: Final = frozenset(
    {"output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "eval_on_start"}
)
"""Fields that the lifecycle answers for, not the trainer."""

COMPILING: Final = frozenset({"torch_compile", "torch_compile_backend", "torch_compile_mode"})
"""Fields that the accelerator answers for which compiles: accelerate would compile the model as a whole."""

CHECKPOINTING: Final = frozenset({"gradient_checkpointing", "gradient_checkpointing_kwargs"})
"""Fields of the accelerator that checkpoints, if it is there: layers are settled before the trainer is built."""

WORKERS: Final = frozenset({"dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor"})
"""Fields of processes that make batches."""

FIXED: Final[Mapping[str, Any]] = {
    "report_to": [],  # loggers are plugins
    "disable_tqdm": True,  # as is the progress bar
    "remove_unused_columns": False,  # a packed batch needs columns that no model's forward names
    "logging_nan_inf_filter": False,  # a loss that is not finite is shown as what it is
    "include_num_input_tokens_seen": "no",  # counted on the host, without waiting for the device each batch
    "eval_do_concat_batches": True,
    "prediction_loss_only": False,
}


def training_arguments(
    run: Run, kind: type[TrainingArguments] = TrainingArguments, **overrides: Any
) -> TrainingArguments:
    """The arguments of a run: what the plan sets, then what ft fixes, then ``overrides``.

    ``kind`` may be another library's, whose own defaults for keys of transformers do not count: the plan's do.
    """
    plan = run.plan
    defaults = {field.name: field.default for field in fields(TrainingArguments) if field.init}
    changed = {field.name for field in fields(kind) if field.default != defaults.get(field.name, field.default)}
    known = defaults.keys() - LIFECYCLE - COMPILING - (CHECKPOINTING - _left_to_transformers(plan))
    values = {name: defaults[name] for name in changed & known}
    given = {
        key for key, source in plan.sources.items() if source.kind != "library default" and not by_launcher(source)
    }
    values |= {key: plan.values[key] for key in known & given & plan.values.keys()}
    values |= _precision(run)
    values |= {"output_dir": str(run.output_dir), "dataloader_pin_memory": _pins_memory(plan), **FIXED}
    if plan.get("save_strategy") == "best":
        values.setdefault("metric_for_best_model", "loss")  # as where load_best_model_at_end chooses
    if plan.get("streaming"):  # each worker would read the whole stream
        values = {key: value for key, value in values.items() if key not in WORKERS}
    if plan.get("disable_shuffling"):
        values["train_sampling_strategy"] = "sequential"
    # Batches of a stream must be collated by the process that uses them: a packed row cannot be cut into shares.
    values.setdefault("accelerator_config", {"dispatch_batches": False})
    with refused("the training arguments"):
        arguments = kind(**{**values, **overrides})
    if not (arguments.bf16 or arguments.fp16):
        arguments.mixed_precision = "no"  # transformers would take the variable of accelerate launch
    return arguments


def use_one_gpu(args: TrainingArguments, decide: Callable[[str], None]) -> None:
    """Take one of several visible GPUs: DDP is faster than DataParallel, which few losses survive."""
    if args.n_gpu > 1:
        args._n_gpu = 1
        decide("one GPU is used: start one process per GPU (launcher: torchrun) to use more")


@contextmanager
def refused(what: str) -> Iterator[None]:
    """What transformers will not combine is the configuration's fault, and what it cannot import the environment's."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(
            f"transformers refuses {what}", why=str(error), remedy="change the keys that it names"
        ) from error
    except ImportError as error:
        raise EnvironmentProblem(
            f"a package is missing for {what}", why=str(error), remedy="install it, or change the key that needs it"
        ) from error


def _left_to_transformers(plan: Plan) -> set[str]:
    """The keys that neither ft nor a plugin declares."""
    theirs = (type(model) for model in plan.models if type(model).__name__ == "TrainerOptions")
    return {name for model in theirs for name in model.model_fields}


def _precision(run: Run) -> dict[str, bool]:
    """Autocast: for bf16 only over fp32 weights; fp16 needs it always, for its loss scaling."""
    fp32 = run.model is not None and base_dtype(run.model) == torch.float32
    return {"bf16": bool(run.plan.get("bf16")) and fp32, "fp16": bool(run.plan.get("fp16"))}


def _pins_memory(plan: Plan) -> bool:
    return bool(plan.get("dataloader_pin_memory", True)) and torch.cuda.is_available() and not plan.get("use_cpu")
