"""Configuration: what was given, merged with the options of a composition, checked in one report.

``gather`` reads (:mod:`.source`, :mod:`.flags`), ``resolve`` merges and checks. Importing this costs no torch and no
transformers, and reading the options of ``TrainingArguments`` does not either.
"""

from ft.config.legacy import answered_keys
from ft.config.owners import key_owner
from ft.config.resolve import Resolved, resolve
from ft.config.schema import json_schema
from ft.config.secrets import is_secret, redact, redact_text
from ft.config.settings import Settings, gather
from ft.config.trainer_args import trainer_options

__all__ = [
    "Resolved",
    "Settings",
    "answered_keys",
    "gather",
    "is_secret",
    "json_schema",
    "key_owner",
    "redact",
    "redact_text",
    "resolve",
    "trainer_options",
]
