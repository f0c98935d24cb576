"""The keys of a reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ft.options import SECRET
from ft_hookspecs import PluginOptions


class RewardOptions(PluginOptions):
    """Where rewards come from, besides plugins that implement ``ft_reward``."""

    reward_model: str | None = Field(
        default=None, description="The reward model: a folder that `stage: rm` saved, a hub id, or the URL of a server."
    )
    reward_model_type: Literal["lora", "full", "api"] = Field(
        default="lora",
        description="`lora`: a second adapter on the policy's own base; `full`: another model; `api`: a server.",
    )
    reward_model_adapters: str | None = Field(
        default=None, description="With `full`: adapters on the reward model; the last holds its value head."
    )
    reward_model_quantization_bit: int | None = Field(
        default=None,
        ge=1,
        le=8,
        description="With `full`: quantise the reward model to this many bits, by `quantization_method`.",
    )
    reward_model_token: str | None = Field(
        default=None,
        description="With `api`: sent as bearer token. Best set as FT_REWARD_MODEL_TOKEN.",
        json_schema_extra=SECRET,
    )
