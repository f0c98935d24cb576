"""Where an answer begins: behind what a template writes when it is asked for one, its generation prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ft.errors import DataError
from ft_hookspecs import Message

if TYPE_CHECKING:
    from ft_hookspecs import Example, Template

PROBE: Final = "An answer."


def question(example: Example) -> Example:
    """A conversation up to its first answer."""
    roles = [message.role for message in example.messages]
    end = roles.index("assistant") if "assistant" in roles else len(roles)
    return replace(example, messages=example.messages[:end])


def check_generation_prompt(prompt: Example, template: Template) -> None:
    """Refuse a template that does not write what an answer begins with when it is asked for.

    A template may have no header for answers (``[INST] … [/INST]``): then the answer itself follows the prompt.

    Args:
        prompt: any messages that an answer may follow.
        template: which is tried with them.

    Raises:
        DataError: the template writes a header only together with an answer, so that the header would be learned.
    """
    messages, tools = prompt.messages, prompt.tools
    try:
        opening = template.render(messages, tools=tools, add_generation_prompt=True)
        if opening != template.render(messages, tools=tools):
            return
        answered = template.render((*messages, Message("assistant", PROBE)), tools=tools)
    except DataError:
        return  # rendering the sample itself says it, with its place
    if not answered[len(opening) :].lstrip().startswith(PROBE):
        raise DataError(
            f"the chat template ({template.name}) has no generation prompt",
            where=prompt.where,
            why="add_generation_prompt adds nothing, so that the header of the turn would count as part of the answer",
            remedy="choose another template, or add the header under `if add_generation_prompt` to this one",
        )
