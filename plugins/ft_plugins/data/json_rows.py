"""Rows of JSON files: one array, or one object a line; told apart by the first character, not by the file's name.

Both are read as a stream: memory holds one row and one block of the file.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final

from ft.data import unique_keys
from ft.errors import DataError
from ft_hookspecs import Row
from ft_plugins.data.fields import excerpt, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK: Final = 1 << 20
SPACE: Final = re.compile(r"[ \t\r\n]*")
OBJECTS: Final = "each row is a JSON object"


DECODER: Final = json.JSONDecoder(object_pairs_hook=unique_keys)


def read_json(stream: IO[bytes], path: str) -> Iterator[Row | Exception]:
    """The rows of a stream at its beginning; ``where`` is ``path:line`` of the row's first character."""
    return read_array(stream, path) if is_array(stream) else read_lines(stream, path)


def is_array(stream: IO[bytes]) -> bool:
    """Whether a file holds one array; the stream is at its beginning before and after."""
    first = b""
    while not first and (line := stream.readline(BLOCK)):
        first = line.removeprefix(codecs.BOM_UTF8).lstrip()
    stream.seek(0)
    return first.startswith(b"[")


def read_lines(stream: IO[bytes], path: str, begin: int = 0) -> Iterator[Row | Exception]:
    """One object a line, without the first ``begin``; a bad line is given as the error, and the rest is read."""
    for number, line in islice(filled_lines(stream), begin, None):
        yield _line(line, f"{path}:{number}")


def filled_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(stream, 1):
        given = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if given.strip():
            yield number, given


def _line(line: bytes, where: str) -> Row | DataError:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        return as_row(DECODER.decode(text), where)
    except UnicodeDecodeError as error:
        return not_utf8(f"{where}:{error.start + 1}", line[error.start])
    except json.JSONDecodeError as error:
        return malformed(error.msg, f"{where}:{error.colno}", text[max(0, error.pos - 20) :])
    except (ValueError, RecursionError) as error:
        return malformed(str(error), where, text)


def as_row(value: Any, where: str) -> Row | DataError:
    """The row, or the error that it is none."""
    if isinstance(value, dict):
        return Row(value, where)
    return DataError(f"a row is {kind(value)}: {excerpt(repr(value))}", where=where, why=OBJECTS)


def malformed(message: str, where: str, near: str) -> DataError:
    return DataError(
        f"malformed JSON near {excerpt(near, 40)!r}",
        where=where,
        why=f"{message}; a file holds one array of objects or one object a line",
        remedy="correct it at this place",
    )


def not_utf8(where: str, byte: int) -> DataError:
    return DataError(
        f"not UTF-8: byte 0x{byte:02x}",
        where=where,
        why="text files are read as UTF-8",
        remedy="convert it, for instance with: iconv -f LATIN1 -t UTF-8",
    )


def find_not_utf8(stream: IO[bytes], path: str) -> DataError:
    """The place of the first byte that is not UTF-8, looked for again from the beginning."""
    stream.seek(0)
    for number, line in enumerate(stream, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return not_utf8(f"{path}:{number}:{error.start + 1}", line[error.start])
    return DataError("not UTF-8", where=f"{path}:1", why="text files are read as UTF-8")


def read_array(stream: IO[bytes], path: str) -> Iterator[Row | Exception]:
    """The elements of one array.

    Raises:
        DataError: the array is malformed: where the next element begins cannot be known then.
    """
    scanner = Scanner(stream, path)
    scanner.peek()
    scanner.take()
    while True:
        if scanner.peek() == "]" and scanner.elements == 0:
            break
        where = scanner.where
        yield as_row(scanner.value(), where)
        if (mark := scanner.peek()) not in (",", "]"):
            raise scanner.error("Expecting ',' or ']'")
        if mark == "]":
            break
        scanner.take()
        if scanner.peek() == "]":
            raise scanner.error("a comma stands before the closing bracket")
    scanner.take()
    if scanner.peek():
        raise scanner.error("Extra data after the array")


class Scanner:
    """Reads JSON values one after the other from a text stream and knows the line and column of each."""

    def __init__(self, stream: IO[bytes], path: str) -> None:
        self.elements = 0
        self._binary = stream
        self._stream = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        self._path = path
        self._text = ""
        self._at = 0
        self._line = 1
        self._line_start = 0  # of the current line in _text; negative when it began in an earlier block

    @property
    def where(self) -> str:
        return f"{self._path}:{self._line}"

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            space = SPACE.match(self._text, self._at)
            self._move(space.end() if space else self._at)
            if self._at < len(self._text) or not self._refill():
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Pass over one character."""
        self._move(self._at + 1)

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # At the end of the block a value may just be incomplete; an unfinished string is known by its start.
                open_end = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated")
                distance = error.pos - self._at
                if not (open_end and self._refill()):
                    raise self.error(error.msg, distance) from None
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            self._move(end)
            self.elements += 1
            return value

    def error(self, message: str, distance: int = 0) -> DataError:
        """The error that something is malformed here, or some characters further on."""
        self._move(self._at + distance)
        where = f"{self.where}:{self._at - self._line_start + 1}"
        return malformed(message, where, self._text[max(0, self._at - 20) : self._at + 40])

    def _move(self, to: int) -> None:
        newlines = self._text.count("\n", self._at, to)
        if newlines:
            self._line += newlines
            self._line_start = self._text.rfind("\n", self._at, to) + 1
        self._at = to

    def _refill(self) -> bool:
        """Read on, twice as far each time a value did not fit, so that a long one costs linear time."""
        try:
            block = self._stream.read(max(BLOCK, len(self._text) - self._at))
        except UnicodeDecodeError:
            raise find_not_utf8(self._binary, self._path) from None
        self._text = self._text[self._at :] + block
        self._line_start -= self._at
        self._at = 0
        return bool(block)
