"""Reads two-column CSV files, reporting every broken rule, in memory that is bounded by the size of the file."""

import csv
import io
import itertools
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxmia.errors import InputError, printable

MAX_BYTES = 64 * 2**20
"""Larger files are rejected unread. A submission of a million samples takes half of it."""
MAX_LINES = 2**21
"""Files of more lines are rejected before they are parsed."""
MAX_LINE = 2**18
"""Largest number of characters in a line. A longer one could contain millions of columns, in twenty times its size."""

SHOWN = 3
"""Number of examples of a broken rule that a message names."""

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
        """Creates a table without rows, for a file that is rejected before it is parsed."""
        return cls(array("q"), [], [], list(broken))

    def rows(self) -> Iterator[Row]:
        """Yields the rows one at a time, since a million `Row` objects would take ten times the memory."""
        return map(Row._make, zip(self.lines, self.ids, self.values, strict=True))


class Examples:
    """Counts violations of a rule, and keeps the first few as examples."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, example: object, value: str | None = None) -> None:
        """Counts a violation; if it is among the first, keeps its text with the value in quotes."""
        if self.count < SHOWN:
            self._first.append(str(example) if value is None else f"{example}: {quote(value)}")
        self.count += 1

    def counted(self, noun: str) -> str:
        """Number of violations with a noun, such as `1 row` or `2 rows`."""
        return f"{self.count} {noun}{'' if self.count == 1 else 's'}"

    def __str__(self) -> str:
        rest = f", and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return ", ".join(self._first) + rest


def read_bytes(path: Path) -> bytes:
    """Reads a CSV. Of a larger file it reads just more than `MAX_BYTES`, by which `parse_table` recognises it.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")  # a single large read would allocate its full size
            return b"".join(itertools.islice(chunks, MAX_BYTES // _CHUNK + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{printable(str(path))}: cannot be read: {reason}") from error


def count_lines(data: bytes) -> int:
    """Number of lines, with any kind of line ending; the last line need not have one."""
    ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    return ends + (not data.endswith((b"\n", b"\r")))


def parse_table(data: bytes, columns: tuple[str, str], *, secret: bool = False) -> Table:
    """Splits the bytes of a two-column CSV into rows, collecting every rule that its form breaks.

    Args:
        data: The bytes of the file.
        columns: The header that the file must have.
        secret: Whether messages must not quote anything from the file.
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


def repeated_ids(table: Table, noun: str) -> list[str]:
    """Lists the ids that stand on more than one line, if there are any, in one line with a noun for them."""
    repeated = [id_ for id_, count in Counter(table.ids).items() if id_ and count > 1]
    lines_of = {id_: Examples() for id_ in repeated[:SHOWN]}
    for row in table.rows():
        if row.id in lines_of:
            lines_of[row.id].add(row.line)
    twice = Examples()
    for id_ in repeated:
        twice.add(f"{noun} {quote(id_)} (lines {lines_of.get(id_)})")
    return [f"{twice.counted(noun)} more than once: {twice}"] if twice.count else []


def quote(text: str) -> str:
    """Quotes text from a file, cut short and with control characters escaped, so that it is safe on a terminal."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _unreadable(data: bytes) -> str | None:
    """Reason why the bytes cannot be parsed as text; None if they can."""
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
        return f"line {_line_of(data, at)}: contains a NUL character; save it as plain UTF-8"
    return None


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _records(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yields records with the line on which each begins.

    Raises:
        csv.Error: The rest of the file cannot be read; the message says from which line on, and why.
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
