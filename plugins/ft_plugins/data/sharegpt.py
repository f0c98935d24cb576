"""The sharegpt format: ``conversations`` of ``{"from": "human", "value": …}`` and ``{"from": "gpt", "value": …}``.

A system message may come first, or stand in the column ``system``. ``function_call`` holds a call as JSON,
``observation`` its result, the column ``tools`` what can be called. Other names are declared as ``tags``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_hookspecs import hookimpl
from ft_plugins.data import conversation, fields

if TYPE_CHECKING:
    from ft_hookspecs import DatasetSource, FormatReader

ft_api_version = 1

TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@hookimpl
def ft_read_format(source: DatasetSource, columns: tuple[str, ...]) -> FormatReader | None:
    if fields.detect(source, columns) != "sharegpt":
        return None
    return conversation.reader(source, columns, conversation.Tags.of(source, TAGS), "conversations")
