"""Two-column CSV files, read so that every broken rule is named, in memory that the size of the file bounds."""

import csv
import io
import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxmia.errors import InputError, printable

MAX_BYTES = 64 * 2**20
"""Larger files are refused unread. A submission of a million samples takes half of it."""
MAX_LINES = 2**21
"""Files of more lines are refused before they are parsed."""
MAX_LINE = 2**18
"""Characters of a line. A longer one could hold millions of columns, which take twenty times its size."""

SHOWN = 3
"""How many examples of a broken rule a message names."""

_CHUNK = 2**16
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row: the line it begins on (the header is line 1), its id and its value, as text.

    The value is None if the row does not have two columns. Its id still counts, so that it is not reported missing too.
    """

    line: int
    id: str
    value: str | None

    def __str__(self) -> str:
        return f"line {self.line} (id {quote(self.id)})"


@dataclass(frozen=True)
class Table:
    """The rows of a two-column CSV that could be read.

    Attributes:
        lines: Line on which each row begins.
        ids: Id of each row.
        values: Value of each row; None if the row does not have two columns.
        broken: One line for each rule that the form of the file breaks.
    """

    lines: array
    ids: list[str]
    values: list[str | None]
    broken: list[str]

    @classmethod
    def unread(cls, *broken: str) -> "Table":
        """A table without rows, of a file that is refused before it is parsed."""
        return cls(array("q"), [], [], list(broken))

    def rows(self) -> Iterator[Row]:
        """The rows, one at a time: a million of them at once would take ten times as much memory."""
        return map(Row._make, zip(self.lines, self.ids, self.values, strict=True))


class Examples:
    """Counts what breaks a rule, and keeps the first few to be shown."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, example: object, value: str | None = None) -> None:
        """Counts one more, and keeps its text, and its value in quotes, if it is among the first."""
        if self.count < SHOWN:
            self._first.append(str(example) if value is None else f"{example}: {quote(value)}")
        self.count += 1

    def counted(self, noun: str) -> str:
        """The number of examples, such as `1 row` or `2 rows`."""
        return f"{self.count} {noun}{'' if self.count == 1 else 's'}"

    def __str__(self) -> str:
        rest = f", and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return ", ".join(self._first) + rest


def read_bytes(path: Path) -> bytes:
    """Reads a CSV. Of a file above `MAX_BYTES` it reads little more, by which `parse_table` recognises it.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")  # one large read would reserve all of its room
            return b"".join(itertools.islice(chunks, MAX_BYTES // _CHUNK + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{printable(str(path))}: cannot be read: {reason}") from error


def count_lines(data: bytes) -> int:
    """The number of lines, whatever ends them; the last one needs no line end."""
    ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    return ends + (not data.endswith((b"\n", b"\r")))


def parse_table(data: bytes, columns: tuple[str, str], *, secret: bool = False) -> Table:
    """Splits the bytes of a two-column CSV into rows, collecting every rule that its form breaks.

    Args:
        data: The bytes of the file.
        columns: The header that the file must have.
        secret: Never quote what the file holds, not even in place of its header.
    """
    marked = ["begins with a byte order mark; save it as plain UTF-8"] if data.startswith(_BOM) else []
    data = data.removeprefix(_BOM)
    if unreadable := _unreadable(data):
        return Table.unread(*marked, unreadable)
    if not data.strip():
        empty = f"is empty, expected the header {','.join(columns)} and one row for each sample"
        return Table.unread(*(marked or [empty]))
    table = Table(array("q"), [], [], marked)
    header: list[str] = []
    blank, uneven = Examples(), Examples()
    failure = None
    try:
        for line, fields in _records(data):
            if line == 1:
                header = fields
            elif not any(map(str.strip, fields)):
                blank.add(f"line {line}")
            else:
                if len(fields) != 2:
                    uneven.add(f"line {line}: {len(fields)} column{'' if len(fields) == 1 else 's'}")
                table.lines.append(line)
                table.ids.append(fields[0])
                table.values.append(fields[1] if len(fields) == 2 else None)
    except csv.Error as error:
        failure = str(error)
    if tuple(header) != columns:
        given = "another" if secret else quote(",".join(header))
        table.broken.append(f"line 1: header is {given}, expected {','.join(columns)!r}")
    if blank.count:
        table.broken.append(f"{blank.counted('row')} blank: {blank}")
    if uneven.count:
        table.broken.append(f"{uneven.counted('row')} not of two columns: {uneven}")
    if failure:
        table.broken.append(failure)
    elif not table.ids:
        table.broken.append("has no row below the header")
    return table


def refuse(path: Path, broken: list[str]) -> None:
    """Refuses a file that breaks rules.

    Raises:
        InputError: There is a broken rule; one line for each.
    """
    if broken:
        raise InputError("\n".join(f"{printable(str(path))}: {rule}" for rule in broken))


def quote(text: str) -> str:
    """Text of a file in quotes, cut short. Control characters are escaped, so that they do not reach the terminal."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _unreadable(data: bytes) -> str | None:
    """Why the bytes cannot be parsed as text."""
    if len(data) > MAX_BYTES:
        return f"is larger than {MAX_BYTES:,} bytes, which no submission needs"
    if (lines := count_lines(data)) > MAX_LINES:
        return f"has {lines:,} lines, expected at most {MAX_LINES:,}"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        at = error.start
        return f"line {_line_of(data, at)}: is not UTF-8 (byte 0x{data[at]:02x} at {at})"
    if (at := data.find(b"\0")) >= 0:
        return f"line {_line_of(data, at)}: holds a NUL character; save it as plain UTF-8"
    return None


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _records(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Records with the line on which each begins.

    Raises:
        csv.Error: What follows cannot be read; the message says from which line on, and why.
    """
    reader = csv.reader(_text_lines(data), strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: cannot be read as CSV, nor what follows: {error}") from error


def _text_lines(data: bytes) -> Iterator[str]:
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")
    while line := text.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"line longer than {MAX_LINE:,} characters")
        yield line
