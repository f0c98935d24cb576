"""Examples that are read anew each time they are asked for, so that memory holds one batch of them, never all."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ft_hookspecs import Example, Message


@dataclass(frozen=True, slots=True)
class Summary:
    """What one reading of examples tells: their number, a digest of what they say, whether a message has a weight."""

    size: int
    digest: str
    weighted: bool


class Examples:
    """The examples of one split, as often as they are iterated over.

    Args:
        read: begins to read them.
        summary: of them; ``None`` when there are none to read because their tokens are all there is.
    """

    def __init__(self, read: Callable[[], Iterator[Example]], summary: Summary | None) -> None:
        self._read = read
        self.summary = summary

    def __iter__(self) -> Iterator[Example]:
        return self._read()

    def __len__(self) -> int:
        return self.summary.size if self.summary else 0

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Examples:
        """Any examples; what can be read only once is kept in memory."""
        if isinstance(examples, Examples):
            return examples
        kept = examples if isinstance(examples, Sequence) else list(examples)
        return cls(kept.__iter__, summarise(kept))


def summarise(examples: Iterable[Example]) -> Summary:
    """Read the examples once."""
    size, weighted, digest = 0, False, _Digest()
    for example in examples:
        size += 1
        weighted = weighted or any(message.weight != 1 for message in example.messages)
        digest.add(content(example))
    return Summary(size, digest.text(), weighted)


def verified(examples: Iterable[Example], summary: Summary, location: str) -> Iterator[Example]:
    """The examples; after the last it is certain that they are those of the summary.

    Raises:
        DataError: they are not, because somebody wrote to the data meanwhile.
    """
    digest = _Digest()
    for example in examples:
        digest.add(content(example))
        yield example
    if digest.text() != summary.digest:
        raise DataError(
            "the data changed while it was being read",
            where=location,
            why="it is read twice: to recognise it, and to tokenise it",
            remedy="run again when nothing writes to it",
        )


def content(example: Example) -> bytes:
    """Everything of an example that its tokens depend on; not where it stands."""
    sides = (example.messages, example.chosen, example.rejected)
    texts = tuple(tuple(map(_parts, side)) for side in sides)
    given: Any = (texts, example.text, example.tools, example.desirable)
    try:
        return marshal.dumps(given, 2)  # version 2 has no references, whose use depends on more than the values
    except ValueError:  # a value of a plugin's own type
        return repr(given).encode("utf-8", "surrogatepass")


def _parts(message: Message) -> tuple[Any, ...]:
    return message.role, message.content, message.tool_calls, message.reasoning, message.train, message.weight


class _Digest:
    def __init__(self) -> None:
        from blake3 import blake3

        self._hasher = blake3()

    def add(self, data: bytes) -> None:
        self._hasher.update(len(data).to_bytes(8, "little") + data)

    def text(self) -> str:
        return str(self._hasher.hexdigest())
