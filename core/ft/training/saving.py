"""How the trainer writes and reads its checkpoints, on top of transformers' own loop."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from ft.errors import ConfigError
from ft.training.checkpoints import random_state, restore_random_state, staged
from ft.training.optimization import load_schedule, load_state
from ft.training.trees import load_tree, save_tree
from ft.training.values import load_value_head, save_value_head, value_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import nn

OPTIMIZER, SCHEDULER, RANDOM, STAGE = "optimizer_state", "scheduler_state", "random_state", "stage_state"


@contextmanager
def fitting(checkpoint: str) -> Iterator[None]:
    """What a checkpoint holds must be what trains: with other keys the run would go on from something else.

    Raises:
        ConfigError: weights or optimizer states have other shapes.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if isinstance(error, RuntimeError) and "state_dict" not in lines[0]:
            raise
        raise ConfigError(
            f"{checkpoint} holds other weights or another optimizer than this run trains",
            where="resume_from_checkpoint",
            why=next((line for line in lines if "mismatch" in line), lines[0]),
            remedy="set the keys back that are said to be different now, or start without resume_from_checkpoint",
        ) from error


class SavingTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """A ``transformers.Trainer`` whose checkpoints are atomic, verified and free of pickle.

    FSDP and DeepSpeed write model and optimizer in their own, sharded formats, which stay.
    """

    def saving(self) -> AbstractContextManager[None]:
        """Entered around each save; a subclass may stop its clock."""
        return nullcontext()

    def before_saving(self) -> None:
        """Called on every process before a save; a subclass may bring the state up to date."""

    def stage_state(self) -> dict[str, Any]:
        """What else this process needs to go on exactly: numbers, text and tensors, nested; empty: nothing."""
        return {}

    def restore_stage_state(self, state: dict[str, Any]) -> None:
        """Put :meth:`stage_state` back, before the first batch of a resumed run; tensors are on the CPU."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        target = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.store_flos()
        self.before_saving()
        with (
            self.saving(),
            staged(target, main=self.args.should_save, barrier=self.accelerator.wait_for_everyone) as folder,
        ):
            self.save_model(str(folder), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                save_tree(random_state(), folder / f"{RANDOM}_{self.args.process_index}")
                if state := self.stage_state():
                    save_tree(state, folder / f"{STAGE}_{self.args.process_index}")
            if self.args.should_save:
                self._save_state(folder)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _save_state(self, folder: Path) -> None:
        """The step, the log so far, the best checkpoint and the callbacks' own state."""
        if self.state.best_global_step:
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            if best.exists() or self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(best)
        exportable = [
            each for each in (*self.callback_handler.callbacks, self.control) if isinstance(each, ExportableState)
        ]
        self.state.stateful_callbacks = {type(each).__name__: each.state() for each in exportable}
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The model and tokenizer; not the arguments, which transformers pickles with the hub's token among them."""
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model)
        model.save_pretrained(folder, state_dict=state_dict)
        save_value_head(model, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with fitting(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_value_head(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_value_head(self.state.best_model_checkpoint)

    def _load_value_head(self, checkpoint: str) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if value_head(model) is not None:
            load_value_head(model, checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_tree(self.optimizer.state_dict(), Path(output_dir) / OPTIMIZER)
            save_tree(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._load_stage_state(checkpoint)
        if checkpoint is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif (Path(checkpoint) / f"{OPTIMIZER}.json").exists():
            with fitting(checkpoint):
                load_state(self.optimizer, load_tree(Path(checkpoint) / OPTIMIZER))
                load_schedule(self.lr_scheduler, load_tree(Path(checkpoint) / SCHEDULER))

    def _load_stage_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint or "") / f"{STAGE}_{self.args.process_index}"
        if checkpoint is not None and path.with_suffix(".json").exists():
            self.restore_stage_state(load_tree(path))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint or "") / f"{RANDOM}_{self.args.process_index}"
        if checkpoint is not None and path.with_suffix(".json").exists():
            restore_random_state(load_tree(path))
