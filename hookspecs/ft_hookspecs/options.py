"""How a plugin declares its configuration keys."""

from pydantic import BaseModel, ConfigDict


class PluginOptions(BaseModel):
    """Base of every option model: frozen, no unknown key, defaults checked like values.

    Each field carries its type, default, bounds (``Field(ge=…)``), choices (``Literal``), unit and one line of meaning
    (``Field(description=…)``). Field names are the flat keys of the configuration, so a third-party plugin begins its
    own with its name: ``sparse_ratio`` for a plugin called ``sparse``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
