"""What ``accelerate launch`` switches on by variables, which accelerate reads whatever the configuration says.

Planning shows them as the keys that mean the same, so that every check of ``fsdp`` or ``deepspeed`` sees them. The
trainer is not told: accelerate configures itself, by these variables and others that belong to them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError
from ft_hookspecs import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import Plan

PREFIX: Final = "ACCELERATE_"
FSDP, DEEPSPEED, CPU = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"
DYNAMO, PRECISION = f"{PREFIX}DYNAMO_BACKEND", f"{PREFIX}MIXED_PRECISION"
DEEPSPEED_FIELDS: Final = f"{PREFIX}DEEPSPEED_…"
"""Shown where DeepSpeed has no configuration file, but a variable for each setting."""
FOREIGN: Final = {
    f"{PREFIX}USE_MEGATRON_LM": "Megatron-LM",
    f"{PREFIX}USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}
"""Ways of training that ft does not have."""


def launched(plan: Plan) -> Plan:
    """The plan with the keys that the launcher answers for, each with its variable as the source."""
    found = {key: each for key, each in _switched_on().items() if key in plan.values and not plan.get(key)}
    values = {key: value for key, (value, _) in found.items()}
    sources = {key: Source("environment", variable) for key, (_, variable) in found.items()}
    return replace(plan, values={**plan.values, **values}, sources={**plan.sources, **sources})


def by_launcher(source: Source) -> bool:
    """Whether a value is the launcher's."""
    return source.kind == "environment" and source.where.startswith(PREFIX)


def launcher_problems(plan: Plan) -> Iterator[ConfigError]:
    """What the launcher switches on that ft does not have, or has by a key that says otherwise."""
    for variable in filter(_on, FOREIGN):
        yield _refused(variable, FOREIGN[variable], "ft does not have it", "leave it out of accelerate's configuration")
    if backend := _word(DYNAMO).lower():
        why = "accelerate would compile the model as a whole; ft compiles its layers"
        yield _refused(
            DYNAMO, f"compiling by {backend}", why, f"use --dynamo_backend no, and torch_compile_backend: {backend}"
        )
    if (precision := _word(PRECISION).lower()) and not plan.get(precision):
        remedy = f", or set {precision}: true" if precision in plan.values else ""
        why = f"accelerate would compute in it, and this configuration has no {precision}: true"
        yield _refused(PRECISION, f"mixed precision in {precision}", why, f"use --mixed_precision no{remedy}")
    if plan.get("fsdp_config") and by_launcher(plan.sources["fsdp"]) and not by_launcher(plan.sources["fsdp_config"]):
        yield ConfigError(
            "fsdp_config is not read where accelerate launch configures FSDP",
            where=str(plan.sources["fsdp_config"]),
            why=f"{FSDP} is set, and accelerate then takes FSDP's settings from variables",
            remedy="take fsdp_config out, or set fsdp: full_shard and start with torchrun",
        )


def _switched_on() -> dict[str, tuple[Any, str]]:
    """Each key with its value and variable."""
    found: dict[str, tuple[Any, str]] = {}
    if _on(CPU):
        found["use_cpu"] = True, CPU
    if _on(DEEPSPEED):
        found["deepspeed"] = _word(f"{PREFIX}DEEPSPEED_CONFIG_FILE") or DEEPSPEED_FIELDS, DEEPSPEED
    if _on(FSDP):
        found["fsdp"] = "full_shard", FSDP
        if _on("FSDP_ACTIVATION_CHECKPOINTING"):
            found["fsdp_config"] = {"activation_checkpointing": True}, FSDP
    return found


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y", "t")


def _word(variable: str) -> str:
    """What a variable names; empty when it names nothing."""
    word = os.environ.get(variable, "")
    return "" if word.lower() in ("no", "none") else word


def _refused(variable: str, what: str, why: str, remedy: str) -> ConfigError:
    return ConfigError(f"accelerate launch asks for {what}", where=variable, why=why, remedy=remedy)
