"""What the stages call: the examples of a split as a cached data set of tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data.cache import batched, cached_dataset, digest
from ft.data.spans import COLUMNS, Supervision
from ft.data.tokens import blocks, supervise_batch
from ft.errors import DataError
from ft.options import DataOptions, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ft.data.cache import Sample
    from ft_hookspecs import DataCounts, Example, Run, Template


def prepare_supervised(
    run: Run,
    examples: Iterable[Example],
    counts: DataCounts,
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
) -> Dataset:
    """Conversations as token ids with labels on what is to be learned.

    Args:
        run: with tokenizer and template.
        examples: of one split.
        counts: receives tokens, cuts and drops.
        train_on_prompt: learn every turn, not only the assistant's.
        mask_history: learn only the last answer of each conversation.

    Raises:
        ConfigError: no template, or a tokenizer without offsets.
        DataError: a conversation that the template cannot render, unless ``on_bad_row`` is ``skip``.
        EnvironmentProblem: the cache cannot be written.
    """
    template, tokenizer = run.template, run.tokenizer
    assert template is not None
    assert tokenizer is not None
    options = run.plan.of(DataOptions)
    supervision = Supervision(options.cutoff_len, options.truncation, train_on_prompt, mask_history, options.on_bad_row)
    conversations = list(examples)

    weighted = any(message.weight != 1 for example in conversations for message in example.messages)

    def build(made: DataCounts) -> Iterator[Sample]:
        for batch in batched(conversations, options.preprocessing_batch_size):
            samples = supervise_batch(batch, template, tokenizer, supervision, made)
            yield from (tokens.row(weighted=weighted) for tokens in samples)

    columns = {**COLUMNS, "loss_weights": "list<float32>"} if weighted else COLUMNS
    depends_on = ("supervised", repr(supervision), template_text(template), "\n".join(template.stop))
    return cached(run, build, columns, depends_on, conversations, counts)


def prepare_text(run: Run, examples: Iterable[Example], counts: DataCounts, *, joined: bool = True) -> Dataset:
    """Plain texts as blocks of ``cutoff_len`` tokens, all of them learned; ``joined``: a block may hold several texts.

    Raises:
        ConfigError: the tokenizer has no eos token, or no offsets.
        DataError: an example is a conversation, not a text.
        EnvironmentProblem: the cache cannot be written.
    """
    tokenizer = run.tokenizer
    assert tokenizer is not None
    options = run.plan.of(DataOptions)
    documents = list(examples)

    def build(made: DataCounts) -> Iterator[Sample]:
        batches = batched(map(plain_text, documents), options.preprocessing_batch_size)
        cut = blocks(batches, tokenizer, options.cutoff_len, made, joined=joined)
        return (block.row(weighted=False) for block in cut)

    return cached(run, build, COLUMNS, ("text", str(options.cutoff_len), str(joined)), documents, counts)


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


def cached(
    run: Run,
    build: Callable[[DataCounts], Iterable[Sample]],
    columns: Mapping[str, str],
    parts: Iterable[str | None],
    examples: Iterable[Example],
    counts: DataCounts,
) -> Dataset:
    """Cached by the content of the examples: whatever file, format or split they came from.

    ``parts`` is what the samples depend on besides the examples and the tokenizer; with a ``None`` among them nothing
    is read from the cache.
    """
    options = run.plan.of(DataOptions)
    if options.preprocessing_num_workers:
        run.decide("preprocessing_num_workers has no effect: tokenising uses all cores in one process")
    folder = options.tokenized_path or cache_folder(run.plan.get("cache_dir")) / "tokens"
    given = list(parts)
    known = [part for part in given if part is not None]
    return cached_dataset(
        build,
        columns=columns,
        key_parts=(*known, tokenizer_text(run.tokenizer), digest(map(content, examples))),
        cache_dir=Path(folder),
        counts=counts,
        overwrite=options.overwrite_cache or len(known) < len(given),
    )


def content(example: Example) -> str:
    """Everything of an example that its tokens depend on; not where it stands."""
    given = (example.messages, example.text, example.tools, example.chosen, example.rejected, example.desirable)
    return repr(given)


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
