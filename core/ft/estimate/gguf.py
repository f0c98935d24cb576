"""The header of a GGUF file: its settings and the shapes of its tensors.

The ``gguf`` package reads a tokenizer's vocabulary into arrays on the way, which takes seconds; a plan has none.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"GGUF"
NUMBERS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
}  # fmt: skip
"""The format's numbers of types, and how ``struct`` writes those types."""
TEXT, ARRAY = 8, 9


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Settings by key, without arrays, and the shapes of tensors as PyTorch writes them (outputs first).

    Raises:
        ValueError: no GGUF file of version 2 or 3.
        struct.error: it is cut short.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != MAGIC or content[4] not in (2, 3):
            raise ValueError("it is not a GGUF file of version 2 or 3")
        reader = _Reader(content, start=8)
        tensors, settings = reader.number("<Q"), reader.number("<Q")
        known = {reader.text(): reader.value(reader.number("<I")) for _ in range(settings)}
        return known, dict(reader.tensor() for _ in range(tensors))


class _Reader:
    """Reads values one after the other."""

    def __init__(self, content: mmap.mmap, start: int) -> None:
        self.content, self.place = content, start

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(kind, self.content, self.place)
        self.place += struct.calcsize(kind)
        return value

    def text(self) -> str:
        length = self.number("<Q")
        self.place += length
        return self.content[self.place - length : self.place].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of one of the format's types; ``None`` for an array, which is passed over."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        item, count = self.number("<I"), self.number("<Q")
        if item in NUMBERS:
            self.place += count * struct.calcsize(NUMBERS[item])
        elif item == TEXT:
            self.pass_over(count)
        else:
            for _ in range(count):
                self.value(item)
        return None

    def pass_over(self, count: int) -> None:
        """Leave out so many texts: a tokenizer has a hundred thousand."""
        content, place, size = self.content, self.place, struct.Struct("<Q")
        for _ in range(count):
            place += size.size + size.unpack_from(content, place)[0]
        self.place = place

    def tensor(self) -> tuple[str, tuple[int, ...]]:
        name, dimensions = self.text(), self.number("<I")
        shape = tuple(self.number("<Q") for _ in range(dimensions))
        self.place += struct.calcsize("<IQ")  # its type, and where its values begin
        return name, shape[::-1]
