"""Going on with an earlier run: what of its configuration must be as it was, and what else is different now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.config import redact
from ft.errors import ConfigError
from ft.files import RECORD, json_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ft_hookspecs import Plan

SAME: Final = ("stage", "finetuning_type", "model_name_or_path", "optim")
"""What a checkpoint is of."""

PLACES: Final = ("output_dir", "cache_dir", "dataset_dir", "plugins", "report_to", "plot_loss")
KEPT_APART: Final = ("overwrite_", "resume_", "logging_", "save_", "eval_", "do_", "dataloader_")
"""Keys, and beginnings of keys, that change no step."""


def check_resumed(plan: Plan) -> None:
    """Refuse to go on with a run that trained something else.

    Raises:
        ConfigError: the stage, the tuning or the model is another one, or there is no such checkpoint.
    """
    asked = str(plan.get("resume_from_checkpoint") or "false")
    if asked.lower() not in ("true", "false") and not Path(asked).is_dir():
        raise ConfigError(
            f"there is no checkpoint {asked}",
            where=str(plan.sources.get("resume_from_checkpoint", "")),
            remedy="name a folder checkpoint-<step>, or set resume_from_checkpoint: true for the newest one",
        )
    before = earlier_config(plan)
    for key in SAME:
        if key in before and before[key] != plan.get(key):
            raise ConfigError(
                f"the run to resume had {key}: {before[key]}, not {plan.get(key)}",
                where=str(plan.sources.get("resume_from_checkpoint", "")),
                why="its checkpoints hold other weights and another optimizer",
                remedy=f"set {key}: {before[key]}, or choose another output_dir and do not resume",
            )


def changes_since(plan: Plan) -> Iterator[str]:
    """A line for each key that may change the steps and has another value than in the run that is resumed."""
    before = earlier_config(plan)
    now: dict[str, Any] = json.loads(json.dumps(redact(plan.values, plan.secrets), default=str))
    for key in sorted(before.keys() & now.keys() - set(PLACES) - plan.secrets):
        if before[key] != now[key] and not key.startswith(KEPT_APART):
            yield f"resumed with another {key}: {json.dumps(now[key])}, before {json.dumps(before[key])}"


def earlier_config(plan: Plan) -> Mapping[str, Any]:
    """The configuration of the run that is to be resumed; empty when there is none or it cannot be read."""
    asked = plan.get("resume_from_checkpoint")
    if not asked or str(asked).lower() == "false" or plan.output_dir is None:
        return {}
    folder = plan.output_dir if str(asked).lower() == "true" else Path(asked).parent
    config: Mapping[str, Any] = json_object(folder / RECORD).get("config", {})
    return config if isinstance(config, dict) else {}
