"""What the stages call: the examples of a split as a data set of tokens, cached, kept or streamed."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ft.data.cache import Identity, Making, batched, cached_dataset, digest, kept_dataset, own_code
from ft.data.examples import Examples
from ft.data.spans import COLUMNS, Supervision
from ft.data.streaming import StreamedExamples
from ft.data.tokens import Supervisor, cut, documents
from ft.data.workers import encoded
from ft.errors import DataError
from ft.options import DataOptions, cache_folder
from ft_hookspecs import StashKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ft.data.cache import Sample
    from ft_hookspecs import DataCounts, Example, Run, Template

    Finish = Callable[[Iterable[Sample], DataCounts], Iterable[Sample]]

SPLIT: Final = StashKey[str]("the split that is being prepared")
NO_SPLIT: Final = ""
"""What is prepared besides: it is cached, and never kept in ``tokenized_path``, whose folders are splits."""


def as_they_are(samples: Iterable[Sample], _: DataCounts) -> Iterable[Sample]:
    """Samples that stand each for itself."""
    return samples


def prepare_supervised(
    run: Run,
    examples: Iterable[Example],
    counts: DataCounts,
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
    finish: Finish = as_they_are,
) -> Dataset:
    """Conversations as token ids with labels on what is to be learned.

    Args:
        run: with tokenizer and template.
        examples: of one split.
        counts: receives tokens, cuts and drops.
        train_on_prompt: learn every turn, not only the assistant's.
        mask_history: learn only the last answer of each conversation.
        finish: as for :func:`prepared`.

    Raises:
        ConfigError: no template, or a tokenizer without offsets.
        DataError: a conversation that the template cannot render, unless ``on_bad_row`` is ``skip``.
        EnvironmentProblem: the cache cannot be written.
    """
    template, tokenizer = run.template, run.tokenizer
    assert template is not None
    assert tokenizer is not None
    options = run.plan.of(DataOptions)
    supervision = Supervision(
        options.cutoff_len,
        options.truncation,
        train_on_prompt,
        mask_history,
        options.on_bad_row,
        options.reserved_label_len,
    )
    supervise = Supervisor(template, tokenizer, supervision)
    given = Examples.of(examples)
    weighted = given.summary is not None and given.summary.weighted

    def encode(batch: Sequence[Example], made: DataCounts) -> Iterator[Sample]:
        return (tokens.row(weighted=weighted or bool(tokens.loss_weights)) for tokens in supervise(batch, made))

    columns = {**COLUMNS, "loss_weights": "list<float32>"} if weighted else COLUMNS
    depends_on = ("supervised", repr(supervision), template_text(template), "\n".join(template.stop))
    return prepared(run, encode, columns, depends_on, given, counts, finish=finish)


def prepare_text(run: Run, examples: Iterable[Example], counts: DataCounts, *, joined: bool = True) -> Dataset:
    """Plain texts as blocks of ``cutoff_len`` tokens, all of them learned; ``joined``: a block may hold several texts.

    Raises:
        ConfigError: the tokenizer has no eos token, or no offsets.
        DataError: an example is a conversation, not a text.
        EnvironmentProblem: the cache cannot be written.
    """
    tokenizer = run.tokenizer
    assert tokenizer is not None
    size, ids_of = run.plan.of(DataOptions).cutoff_len, documents(tokenizer)

    def encode(batch: Sequence[Example], _: DataCounts) -> Iterator[Sample]:
        return ({"input_ids": ids} for ids in ids_of([plain_text(example) for example in batch]))

    def in_blocks(texts: Iterable[Sample], made: DataCounts) -> Iterator[Sample]:
        cut_blocks = cut((text["input_ids"] for text in texts), size, made, joined=joined)
        return (block.row(weighted=False) for block in cut_blocks)

    return prepared(run, encode, COLUMNS, ("text", str(size), str(joined)), examples, counts, finish=in_blocks)


def plain_text(example: Example) -> str:
    """The text of an example for pretraining."""
    if example.text is None:
        raise DataError(
            "a conversation where plain text is needed",
            where=example.where,
            why="pretraining learns plain text",
            remedy="set formatting: text and name the column (columns: {prompt: …}), or use stage: sft",
        )
    return example.text


def prepared(
    run: Run,
    encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]],
    columns: Mapping[str, str],
    parts: Iterable[str | None],
    examples: Iterable[Example],
    counts: DataCounts,
    *,
    finish: Finish = as_they_are,
) -> Dataset:
    """The data set of any stage: read as a stream, tokenised by as many processes as are asked for, and cached.

    It is addressed by the content of the examples: whatever file, format or split they came from. With
    ``tokenized_path`` it is kept there instead; with ``streaming`` nothing is written and a
    :class:`ft.training.streams.TokenStream` is returned.

    Args:
        run: with tokenizer.
        encode: makes samples, each a value for every column, of a batch of examples; counts what it drops and cuts.
        columns: the Arrow types by name: ``int32``, ``bool``, ``string``, ``list<int32>`` …
        parts: what the samples depend on besides the examples and the tokenizer; with a ``None`` among them nothing is
            read from the cache.
        examples: of one split.
        counts: receives what was counted.
        finish: makes samples of those of all batches, where they do not stand each for itself.

    Raises:
        DataError: ``tokenized_path`` holds something else; what ``encode`` raises.
        EnvironmentProblem: the data cannot be written.
    """
    options = run.plan.of(DataOptions)
    if isinstance(examples, StreamedExamples):
        from ft.training.streams import TokenStream

        return TokenStream(examples, encode, finish, counts, options.preprocessing_batch_size)
    given = Examples.of(examples)
    size = options.preprocessing_batch_size
    workers = max(1, min(options.preprocessing_num_workers or 1, ceil(len(given) / size)))

    def build(made: DataCounts) -> Iterable[Sample]:
        return finish(encoded(batched(given, size), encode, made, workers), made)

    known = list(parts)
    data = digest((given.summary.digest, repr(sorted(columns.items())))) if given.summary else ""
    recipe = digest((*(part or "" for part in known), tokenizer_text(run.tokenizer)))
    making = Making(build, columns, Identity(data, recipe, own_code()))
    if options.tokenized_path and (split := run.stash.get(SPLIT, "train")) != NO_SPLIT:
        folder = Path(options.tokenized_path) / split.replace("/", "-")
        return kept_dataset(making, folder, counts, overwrite=options.overwrite_cache, tell=run.decide)
    folder = cache_folder(run.plan.get("cache_dir")) / "tokens"
    return cached_dataset(making, folder, counts, overwrite=options.overwrite_cache or None in known)


def template_text(template: Template) -> str | None:
    """What identifies a template; ``None`` (then nothing is read from the cache) when it does not say.

    A template that writes the date renders anew each day.
    """
    text: str | None = getattr(template, "text", None)
    if text is None:
        return None
    arguments = repr(getattr(template, "arguments", {}))
    return text + arguments + (datetime.now(UTC).date().isoformat() if "strftime_now" in text else "")


def tokenizer_text(tokenizer: PreTrainedTokenizerBase | Any) -> str:
    """What identifies a tokenizer: its serialisation and its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (backend.to_str() if backend is not None else repr(tokenizer)) + repr(tokenizer.special_tokens_map)
