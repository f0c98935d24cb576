"""The JSON Schema of a composition, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_hookspecs import PluginOptions

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(models: Iterable[type[PluginOptions]]) -> dict[str, Any]:
    """One schema for all models: each key with its type, bounds, choices, default and description."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required: list[str] = []
    for model in models:
        schema = model.model_json_schema(mode="validation")
        properties |= {key: _commas(each) for key, each in schema.get("properties", {}).items()}
        definitions |= schema.get("$defs", {})
        required += schema.get("required", [])
    parts = {"properties": properties, "required": required, "$defs": definitions}
    head = {"$schema": DIALECT, "title": "ft configuration", "type": "object", "additionalProperties": False}
    return head | {name: part for name, part in parts.items() if part}


def _commas(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of one key, in which a list may also be written as text with commas."""
    schema = {name: value for name, value in schema.items() if name != "title"}
    if "anyOf" in schema:
        kinds = {each.get("type") for each in schema["anyOf"]}
        text = [{"type": "string"}] if "array" in kinds and "string" not in kinds else []
        return schema | {"anyOf": [*schema["anyOf"], *text]}
    if schema.get("type") == "array":
        about = {name: value for name, value in schema.items() if name in ("default", "description")}
        array = {name: value for name, value in schema.items() if name not in about}
        return {"anyOf": [array, {"type": "string"}], **about}
    return schema
