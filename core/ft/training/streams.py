"""Training on a stream: each process tokenises its own share of the rows, and a checkpoint says where it was.

The stream has no end: pass follows pass, each shuffled anew. Every micro-batch is therefore full, no process waits for
another that has run out, and how many samples were consumed follows from the number of steps.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset

from ft.data.cache import batched
from ft.data.tokens import none_left
from ft.training.base import RunTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn
    from transformers import TrainingArguments

    from ft.data.cache import Sample
    from ft.data.streaming import Loaded, StreamedExamples
    from ft_hookspecs import DataCounts, Example


class Begin(NamedTuple):
    """Where a block begins: the samples that were given before it, the pass, the block's number in it."""

    given: int
    number: int
    block: int


class TokenStream(IterableDataset[Any]):
    """The samples of a stream without end, in this process's share of each block.

    Args:
        examples: of the run.
        encode: makes samples of a batch of examples.
        finish: makes samples of those of a block, where they do not stand each for itself.
        counts: receives what ``encode`` counts.
        batch_size: examples tokenised at a time.
    """

    def __init__(
        self,
        examples: StreamedExamples,
        encode: Callable[[Sequence[Example], DataCounts], Iterable[Sample]],
        finish: Callable[[Iterable[Sample], DataCounts], Iterable[Sample]],
        counts: DataCounts,
        batch_size: int,
    ) -> None:
        self._examples, self._encode, self._finish, self._counts = examples, encode, finish, counts
        self._batch_size = batch_size
        self._begins = [Begin(0, 0, 0)]
        self._skip = 0
        self.rank, self.processes = 0, 1

    @property
    def rows(self) -> int | None:
        """Of a pass, over all processes; ``None`` if they were not counted."""
        return self._examples.size

    def __iter__(self) -> Iterator[Sample]:
        """From the place that was restored, or the beginning.

        Raises:
            DataError: a pass gave no sample at all.
        """
        given, number, first = self._begins[-1]
        skip = self._skip
        while True:
            before = given
            for block, rows in self._examples.blocks(number, first):
                self._begins.append(Begin(given, number, block))
                for sample in self._samples(rows):
                    given += 1
                    if skip:
                        skip -= 1
                    else:
                        yield sample
            if given == before and not first:
                raise none_left("train", self._counts)
            number, first = number + 1, 0

    def _samples(self, rows: Sequence[Loaded]) -> Iterable[Sample]:
        share = rows[self.rank :: self.processes]
        batches = batched(self._examples.convert(share), self._batch_size)
        return self._finish((sample for batch in batches for sample in self._encode(batch, self._counts)), self._counts)

    def add_up(self) -> None:
        """Count what all processes have read: to be called by each of them, once, when none reads on."""
        if self.processes > 1:
            counted: list[DataCounts] = gather_object([self._counts])
            for other in (*counted[: self.rank], *counted[self.rank + 1 :]):
                self._counts.add(other)

    def state_after(self, samples: int) -> dict[str, int]:
        """The place behind so many samples, of which the last may long have been passed by a batch read ahead."""
        known = [begin for begin in self._begins if begin.given <= samples]
        self._begins = [known[-1], *self._begins[len(known) :]]
        return {**known[-1]._asdict(), "samples": samples}

    def restore(self, state: dict[str, int]) -> None:
        """Go on behind :meth:`state_after`."""
        self._begins = [Begin(state["given"], state["number"], state["block"])]
        self._skip = state["samples"] - state["given"]


class StreamingTrainer(RunTrainer):
    """A trainer that takes a :class:`TokenStream` as well as a data set with a length."""

    def __init__(self, model: nn.Module, args: TrainingArguments, *, train_dataset: Any = None, **kwargs: Any) -> None:
        self.stream = train_dataset if isinstance(train_dataset, TokenStream) else None
        if self.stream is not None:
            self.stream.rank, self.stream.processes = args.process_index, args.world_size
            args.ignore_data_skip = True  # the stream itself goes on where it was
            if args.max_steps <= 0:
                args.max_steps = steps_of(self.stream, args)
        super().__init__(model, args, train_dataset=train_dataset, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        if self.stream is not None:
            self.stream.add_up()
        return output

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of a stream not accelerate's: that would read all rows in each process, and keep one part of them."""
        if self.stream is None:
            return super().get_train_dataloader()  # type: ignore[no-any-return]  # untyped base
        return DataLoader(self.stream, batch_size=self.args.train_batch_size, collate_fn=self.data_collator)

    def stage_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().stage_state()
        return {**state, "stream": self.stream.state_after(self._consumed())} if self.stream else state

    def restore_stage_state(self, state: dict[str, Any]) -> None:
        super().restore_stage_state(state)
        if self.stream is not None and "stream" in state:
            self.stream.restore(state["stream"])

    def _consumed(self) -> int:
        """Samples that this process has trained on."""
        return int(self.state.global_step * self.args.gradient_accumulation_steps * self.args.train_batch_size)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """The passes over the data so far, where transformers has a share of the run that forgets a resume."""
        if self.stream is not None:
            samples = self._consumed() * self.args.world_size
            self.state.epoch = samples / self.stream.rows if self.stream.rows else 0.0
        super()._maybe_log_save_evaluate(*args, **kwargs)


def steps_of(stream: TokenStream, args: TrainingArguments) -> int:
    """The optimizer steps of ``num_train_epochs`` passes, as if every row gave one sample."""
    assert stream.rows is not None
    epochs: float = args.num_train_epochs
    step: int = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return ceil(epochs * stream.rows / step)
