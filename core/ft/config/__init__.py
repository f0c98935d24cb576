"""Configuration: what was given, merged with the options of a composition, checked in one report.

``gather`` reads (:mod:`.source`, :mod:`.flags`), ``resolve`` merges and checks. Importing this costs no torch and no
transformers, and reading the options of ``TrainingArguments`` does not either.
"""

from ft.config.legacy import answered_keys, todays_name
from ft.config.owners import declared_keys, key_owner
from ft.config.resolve import Resolved, resolve
from ft.config.schema import json_schema
from ft.config.secrets import is_secret, redact, redact_text
from ft.config.settings import Settings, gather
from ft.config.trainer_args import trainer_options

__all__ = [
    "Resolved",
    "Settings",
    "answered_keys",
    "declared_keys",
    "gather",
    "is_secret",
    "json_schema",
    "key_owner",
    "redact",
    "redact_text",
    "resolve",
    "todays_name",
    "trainer_options",
]
