"""Chat templates: one rendering for training and for inference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ft.errors import ConfigError, DataError, did_you_mean
from ft.options import DataOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pluggy import HookRelay
    from transformers import PreTrainedTokenizerBase

    from ft_hookspecs import Message, Plan, Template, ToolSpec


class ChatTemplate:
    """A Jinja chat template, rendered by the tokenizer's own ``apply_chat_template`` as any user of the model does it.

    Args:
        tokenizer: gives the special tokens and, without ``source``, the template.
        source: the Jinja text instead of the tokenizer's own.
        name: for messages.
        stop: texts that end an answer, besides the tokenizer's eos token.
        default_system: the system message of conversations that have none; it becomes part of :attr:`text`, so that
            inference with the saved template has it too.
        enable_thinking: passed to the template when not ``None``.

    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: str | None = None,
        *,
        name: str = "the tokenizer's own",
        stop: Sequence[str] = (),
        default_system: str | None = None,
        enable_thinking: bool | None = None,
    ) -> None:
        prelude = "" if default_system is None else _system_prelude(default_system)
        eos = tokenizer.eos_token
        self.name: str = name
        self.text: str = prelude + tokenizer.get_chat_template(source)
        self.stop: Sequence[str] = tuple(dict.fromkeys((*((eos,) if eos else ()), *stop)))
        self._text_with_tools = prelude + tokenizer.get_chat_template(source, tools=[{}])
        self._tokenizer = tokenizer
        self.arguments: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), add_generation_prompt: bool = False
    ) -> str:
        """The whole text, special tokens included; see :class:`ft_hookspecs.Template`.

        Raises:
            DataError: the template refuses the conversation, or fails on it.
        """
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                [as_dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self._text_with_tools if tools else self.text,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self.arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(
                f"the chat template ({self.name}) cannot render this conversation",
                why=str(error) or type(error).__name__,
                remedy="correct the row, or choose another template",
            ) from error
        return text

    def render_batch(self, conversations: Sequence[Sequence[Message]]) -> list[str] | None:
        """The texts of many conversations without tools; ``None`` if any of them cannot be rendered.

        One call for many, because preparing a call takes as long as rendering a conversation.
        """
        from jinja2 import TemplateError

        given = [[as_dict(message) for message in messages] for messages in conversations]
        try:
            texts: list[str] = self._tokenizer.apply_chat_template(
                given, chat_template=self.text, tokenize=False, **self.arguments
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError):
            return None
        return texts


class MissingTemplate:
    """Stands where a run has no template; only a stage that renders conversations is told so."""

    name = "none"
    stop: Sequence[str] = ()

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), add_generation_prompt: bool = False
    ) -> str:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the tokenizer has no chat template",
            where="template",
            why="a base model does not say how a conversation is written",
            remedy=f"name one with template: …; there are {', '.join(self.names) or 'none among the selected plugins'}",
        )


def as_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates read it."""
    given: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        given["tool_calls"] = [dict(call) for call in message.tool_calls]
    if message.reasoning is not None:
        given["reasoning_content"] = message.reasoning
    return given


def _system_prelude(system: str) -> str:
    """Jinja that puts a system message before a conversation without one; works before any template."""
    message = json.dumps({"role": "system", "content": system}, ensure_ascii=False)
    return f"{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{message}] + messages %}}{{%- endif %}}"


def unknown_template(hook: HookRelay, plan: Plan, name: str) -> DataError:
    """The error for a template that no selected plugin has, with the nearest names."""
    known = template_names(hook, plan)
    source = plan.sources.get("template")
    near = did_you_mean(name, known, 3) or "choose one of them."
    return DataError(
        f"unknown template {name!r}",
        where=str(source) if source else "template",
        why=f"the templates are {', '.join(known)}" if known else "no selected plugin has templates",
        remedy=f"{near} Or take template out: the tokenizer's own is then used",
    )


def template_names(hook: HookRelay, plan: Plan) -> list[str]:
    """The names of all templates that the selected plugins have."""
    return sorted({name for names in hook.ft_template_names(plan=plan) for name in names})


def template_for(hook: HookRelay, plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template of a run: the one that ``template`` names, or the tokenizer's own.

    ``default_system`` and a named template are written into ``tokenizer.chat_template``, so that the saved tokenizer
    renders what the model was trained on.

    Without either the result refuses to render: pretraining needs no template.

    Raises:
        DataError: an unknown name.
    """
    options = plan.of(DataOptions)
    template: Template | None
    if options.template:
        template = hook.ft_template(plan=plan, name=options.template, tokenizer=tokenizer)
        if template is None:
            raise unknown_template(hook, plan, options.template)
    elif tokenizer.chat_template:
        template = ChatTemplate(
            tokenizer, default_system=options.default_system, enable_thinking=options.enable_thinking
        )
    else:
        return MissingTemplate(template_names(hook, plan))
    if isinstance(template, ChatTemplate) and (options.template or options.default_system is not None):
        tokenizer.chat_template = template.text
    return template
