"""The openai format: ``messages`` of ``{"role": "user", "content": …}``, with ``tool_calls`` and results of tools.

Content may be a list of text parts. ``weight`` or ``train`` of a message says what part it has in the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_hookspecs import hookimpl
from ft_plugins.data import conversation, fields

if TYPE_CHECKING:
    from ft_hookspecs import DatasetSource, FormatReader

ft_api_version = 1

TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


@hookimpl
def ft_read_format(source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    if fields.detect(source, columns) != "openai":
        return None
    tags = conversation.Tags.of(source, TAGS, developer="system")
    return conversation.reader(source, columns, tags, "messages")
