"""What the stages that learn from preferences and rewards call: pairs, judged answers, and prompts, as tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from ft.data.answers import Fitter, Limits
from ft.data.asking import EQUAL, as_feedback, as_pair, as_prompt, note_unheeded
from ft.data.prepare import prepared, template_text
from ft.data.reading import drop_or_raise
from ft.data.spans import IGNORE
from ft.errors import ConfigError, DataError
from ft.options import DataOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset

    from ft.data.answers import Asked, Fitted
    from ft.data.cache import Sample
    from ft.data.spans import Tokens
    from ft_hookspecs import DataCounts, Example, Message, Plan, Run

IDS: Final = "list<int32>"
PAIR_COLUMNS: Final = {
    "prompt_ids": IDS, "chosen_ids": IDS, "chosen_labels": IDS, "rejected_ids": IDS, "rejected_labels": IDS,
    "length": "int32",
}  # fmt: skip
FEEDBACK_COLUMNS: Final = {
    "prompt_ids": IDS, "answer_ids": IDS, "answer_labels": IDS, "desirable": "bool", "length": "int32",
}  # fmt: skip
PROMPT_COLUMNS: Final = {"prompt_ids": IDS, "length": "int32", "prompt": "string", "answer": "string"}

EMPTY: Final = "an answer is empty"
NO_PROMPT: Final = "no token before the answer"

Dropped = str
"""A reason, where a sample might have been."""

ANSWER_TOKENS: Final = 1024
"""Room for an answer where ``max_new_tokens`` is not set, as generation has it, unless that is most of cutoff_len."""


def prepare_pairs(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    """Pairs of a better and a worse answer (dpo, rm).

    Args:
        run: with tokenizer and template.
        examples: of one split, with ``chosen`` and ``rejected``.
        counts: receives tokens, cuts and drops: equal sides, a side without content, a prompt that fills cutoff_len.

    Returns:
        ``prompt_ids``, the longest beginning that both sides share and neither learns; ``chosen_ids``,
        ``rejected_ids`` and their labels (:data:`IGNORE` where not learned) after it; ``length``, the tokens of all
        three. Prompt and either answer have at most ``cutoff_len`` tokens together.

    Raises:
        ConfigError: no template, or a tokenizer without offsets.
        DataError: an example is no pair, or one that the template cannot render (unless ``on_bad_row`` is ``skip``);
            a template without a generation prompt.
        EnvironmentProblem: the cache cannot be written.
    """
    return _prepare(run, examples, counts, as_pair, pair_row, PAIR_COLUMNS, limits_of(run.plan))


def prepare_feedback(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    """Answers that are judged good or bad, each for itself (kto); a pair gives one of each, and this is counted.

    Returns:
        ``prompt_ids``; ``answer_ids`` and ``answer_labels`` after it; ``desirable``; ``length``, the tokens of both.

    Raises:
        ConfigError, DataError, EnvironmentProblem: as for :func:`prepare_pairs`.
    """
    return _prepare(run, examples, counts, as_feedback, feedback_row, FEEDBACK_COLUMNS, limits_of(run.plan))


def prepare_prompts(run: Run, examples: Iterable[Example], counts: DataCounts) -> Dataset:
    """Prompts for a model to answer (ppo, grpo, rloo): each row up to its last answer, which is kept apart.

    Room is left in ``cutoff_len`` for an answer: ``max_new_tokens``, or, where that is not set, 1024 tokens but at
    most half of ``cutoff_len``.

    Returns:
        ``prompt_ids``, which end where an answer begins; ``length``; ``prompt``, their text; ``answer``, the text of
        the row's own (of a pair: the chosen) answer, or empty.

    Raises:
        ConfigError, DataError, EnvironmentProblem: as for :func:`prepare_pairs`; ``max_new_tokens`` leaves no room for
            a prompt.
    """
    limits = limits_of(run.plan)
    shorter = replace(limits, cutoff_len=limits.cutoff_len - answer_room(run.plan))
    return _prepare(run, examples, counts, as_prompt, prompt_row, PROMPT_COLUMNS, shorter)


def limits_of(plan: Plan) -> Limits:
    """The limits that the options of the data set."""
    options = plan.of(DataOptions)
    return Limits(options.cutoff_len, options.truncation, options.reserved_label_len, options.on_bad_row)


def answer_room(plan: Plan) -> int:
    """Tokens of ``cutoff_len`` that a prompt of :func:`prepare_prompts` leaves to the answer.

    Raises:
        ConfigError: ``max_new_tokens`` leaves none to the prompt.
    """
    wanted: int | None = plan.get("max_new_tokens")
    cutoff_len = plan.of(DataOptions).cutoff_len
    if wanted is None:
        return min(ANSWER_TOKENS, cutoff_len // 2)
    if wanted < cutoff_len:
        return wanted
    source = plan.sources.get("max_new_tokens")
    raise ConfigError(
        f"max_new_tokens {wanted} leaves no room for a prompt in cutoff_len {cutoff_len}",
        where=str(source) if source else "max_new_tokens",
        why="cutoff_len counts prompt and answer together",
        remedy="raise cutoff_len, or lower max_new_tokens",
    )


def _prepare(
    run: Run,
    examples: Iterable[Example],
    counts: DataCounts,
    read: Callable[[Example, DataCounts], Sequence[Asked]],
    row: Callable[[Fitted], Sample | Dropped],
    columns: Mapping[str, str],
    limits: Limits,
) -> Dataset:
    template, tokenizer = run.template, run.tokenizer
    assert template is not None
    assert tokenizer is not None
    fit = Fitter(template, tokenizer, limits)

    def encode(batch: Sequence[Example], made: DataCounts) -> Iterator[Sample]:
        samples = [sample for example in batch for sample in _read(read, example, limits, made)]
        for fitted in fit(samples, made):
            yield from _counted(row(fitted), fitted.is_cut, made)

    parts = (read.__name__, repr(limits), template_text(template), "\n".join(template.stop))
    return prepared(run, encode, columns, parts, examples, counts)


def _read(
    read: Callable[[Example, DataCounts], Sequence[Asked]], example: Example, limits: Limits, counts: DataCounts
) -> Sequence[Asked]:
    try:
        samples = read(example, counts)
    except DataError as error:
        drop_or_raise(error, limits.on_bad_row == "skip", counts)
        return ()
    note_unheeded(example, counts)
    return samples


def _counted(made: Sample | Dropped, is_cut: bool, counts: DataCounts) -> Iterator[Sample]:
    if isinstance(made, str):
        counts.drop(made)
        return
    counts.truncated += is_cut
    counts.tokens += made["length"]
    labels = (values for name, values in made.items() if name.endswith("_labels"))
    counts.supervised += sum(len(values) - values.count(IGNORE) for values in labels)
    yield made


# ---- tokens as rows -----------------------------------------------------------------------------------------------


def pair_row(fitted: Fitted) -> Sample | Dropped:
    """The columns of a pair, or why there is none."""
    chosen, rejected = fitted.tokens
    same = (ours == theirs for ours, theirs in zip(chosen.input_ids, rejected.input_ids, strict=False))
    shared = min(sum(takewhile(bool, same)), _unlearned(chosen), _unlearned(rejected))
    if reason := _unusable(fitted, shared):
        return reason
    return {
        "prompt_ids": chosen.input_ids[:shared],
        "chosen_ids": chosen.input_ids[shared:],
        "chosen_labels": chosen.labels[shared:],
        "rejected_ids": rejected.input_ids[shared:],
        "rejected_labels": rejected.labels[shared:],
        "length": len(chosen.input_ids) + len(rejected.input_ids) - shared,
    }


def feedback_row(fitted: Fitted) -> Sample | Dropped:
    """The columns of a judged answer, or why there is none."""
    [tokens] = fitted.tokens
    prompt = _unlearned(tokens)
    if reason := _unusable(fitted, prompt):
        return reason
    return {
        "prompt_ids": tokens.input_ids[:prompt],
        "answer_ids": tokens.input_ids[prompt:],
        "answer_labels": tokens.labels[prompt:],
        "desirable": fitted.sample.desirable,
        "length": len(tokens.input_ids),
    }


def prompt_row(fitted: Fitted) -> Sample | Dropped:
    """The columns of a prompt."""
    [side], [tokens] = fitted.sides, fitted.tokens
    ids = tokens.input_ids
    return {"prompt_ids": ids, "length": len(ids), "prompt": side.text, "answer": fitted.sample.own_answer}


def _unlearned(tokens: Tokens) -> int:
    """Tokens before the first that is learned."""
    return sum(1 for _ in takewhile(lambda label: label == IGNORE, tokens.labels))


def _unusable(fitted: Fitted, prompt_length: int) -> Dropped:
    """Why nothing can be learned from the sample; empty when something can."""
    within = " within cutoff_len" if fitted.is_cut else ""
    if not all(map(_says_something, fitted.sample.answers)):
        return EMPTY + within
    if len({side.text for side in fitted.sides}) < len(fitted.sides):
        return EQUAL + within
    return "" if prompt_length else NO_PROMPT


def _says_something(answer: Sequence[Message]) -> bool:
    """Whether each message of the assistant has content, calls or thoughts."""
    return all(m.content.strip() or m.tool_calls or m.reasoning for m in answer if m.role == "assistant")
