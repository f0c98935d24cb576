"""Named chat templates, as data files: ``<name>.jinja``, and what goes with them in ``templates.json``.

There, ``stop`` are the texts that end an answer besides the eos token, ``default_system`` the system message of
conversations without one, and ``file`` the template of another name that this one shares.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from ft.errors import ConfigError
from ft_hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import Plan, Template

ft_api_version = 1

NO_TOOLS: Final = (
    "{%- if tools or messages | selectattr('role', 'equalto', 'tool') | list"
    " or messages | selectattr('tool_calls', 'defined') | list -%}"
    "{{- raise_exception('this template cannot write tools') -}}{%- endif -%}"
)
"""Before a template that knows no tools: to leave them out would train on half a conversation."""


@hookimpl
def ft_template_names() -> Iterable[str]:
    return entries()


@hookimpl
def ft_template(plan: Plan, name: str, tokenizer: PreTrainedTokenizerBase) -> Template | None:
    from ft.data import ChatTemplate

    if name not in entries():
        return None
    entry, text = entries()[name], source(name)
    if "eos_token" in text and tokenizer.eos_token is None:
        raise ConfigError(
            f"the template {name!r} needs an eos token, and the tokenizer has none",
            where="template",
            why="it ends each answer",
            remedy="choose a template with an end marker of its own, such as chatml",
        )
    return ChatTemplate(
        tokenizer,
        text,
        name=name,
        stop=entry.get("stop", ()),
        default_system=plan.get("default_system") or entry.get("default_system"),
        enable_thinking=plan.get("enable_thinking"),
    )


@cache
def entries() -> dict[str, dict[str, Any]]:
    """What ``templates.json`` says, by name."""
    table: dict[str, dict[str, Any]] = json.loads(files(__name__).joinpath("templates.json").read_text("utf-8"))
    return table


def source(name: str) -> str:
    """The Jinja text of a template."""
    file = entries()[name].get("file", name)
    text = files(__name__).joinpath(f"{file}.jinja").read_text("utf-8").removesuffix("\n")
    return text if "tools" in text else NO_TOOLS + text
