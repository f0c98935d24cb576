"""From the names of data sets to token ids: public to plugins, light to import.

::

    names ─ dataset_sources ─▶ sources ─ read_examples ─▶ examples ─ Supervisor ─▶ tokens ─ cached_dataset ─▶ Arrow
            dataset_info.json   ft_load_dataset   Template, blocks       by content
            paths, hub ids      ft_read_format
"""

from ft.data.cache import cached_dataset
from ft.data.examples import Examples
from ft.data.kinds import check_feedback, check_pairs, check_prompts, check_supervised, check_text
from ft.data.pairs import answer_room, prepare_feedback, prepare_pairs, prepare_prompts
from ft.data.prepare import NO_SPLIT, SPLIT, prepare_supervised, prepare_text, prepared
from ft.data.reading import load_splits, rare_gc, read_examples
from ft.data.sources import dataset_sources, unique_keys
from ft.data.spans import IGNORE, Supervision, Tokens, encode_batch
from ft.data.templates import ChatTemplate, template_for
from ft.data.tokens import Supervisor, none_left

__all__ = [
    "IGNORE",
    "NO_SPLIT",
    "SPLIT",
    "ChatTemplate",
    "Examples",
    "Supervision",
    "Supervisor",
    "Tokens",
    "answer_room",
    "cached_dataset",
    "check_feedback",
    "check_pairs",
    "check_prompts",
    "check_supervised",
    "check_text",
    "dataset_sources",
    "encode_batch",
    "load_splits",
    "none_left",
    "prepare_feedback",
    "prepare_pairs",
    "prepare_prompts",
    "prepare_supervised",
    "prepare_text",
    "prepared",
    "rare_gc",
    "read_examples",
    "template_for",
    "unique_keys",
]
