"""Samples in `.csv` files, with the columns `id`, `label` and `membership`, and a column for each feature."""

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bridge.fields import Place, ids_of, labels_of, membership_of
from bridge.safeload import checked_size
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError, printable
from jaxmia.files import write_text

NAMED = ("id", "label", "membership")
"""Columns that are not features."""

Categories = Mapping[str, Sequence[str]]
"""Categories of each column that is one-hot encoded, in the order of its features."""

_MAX_LINE = 2**21
"""Largest number of characters in a line; split into cells, they take some forty times as much memory."""
_FREE_BYTES, _BYTES_A_BYTE = 16 * 2**20, 32
"""Bytes that the features of a file may always take, and bytes that they may take for each byte of the file."""
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
_LARGEST = float(np.finfo(np.float32).max)
_LISTED = 8


def load_table(
    path: Path, *, known: bool, max_bytes: int, num_classes: int | None, categories: Categories | None = None
) -> Pool:
    """Reads the samples of a `.csv`, features as float32 in the order of their columns.

    Args:
        path: Path of the file, in UTF-8 and separated by commas.
        known: Whether the file must contain memberships; otherwise they are never read.
        max_bytes: Largest size of the file and of its features in memory.
        num_classes: Number of classes, if known.
        categories: Columns that are one-hot encoded; each is replaced by one feature per category.

    Raises:
        InputError: The file cannot be read; a column is missing, occurs twice, lacks values or contains text; or a row
            has another number of columns.
    """
    categories = categories or {}
    with _records(path, max_bytes) as records:
        header = _header(path, records, NAMED if known else NAMED[:2])
        table = _Table(header, categories)
        for line, cells in records:
            table.add(line, cells)
    table.check(path)

    def place(column: str) -> Place:
        return lambda index: f"{column} in line {table.lines[index]}"

    return Pool(
        table.features(path, max_bytes),
        labels_of(path, [_whole(text) for text in table.named["label"]], num_classes, place("label")),
        ids_of(path, table.named["id"], place("id")),
        membership_of(path, [_whole(text) for text in table.named["membership"]], place("membership"))
        if known
        else np.full(len(table.lines), UNKNOWN, np.int8),
    )


def load_table_ids(path: Path, max_bytes: int) -> np.ndarray:
    """Reads the ids of the samples of a `.csv`, text `[sample]`; its features are not checked.

    Raises:
        InputError: The file cannot be read, or an id is missing or occurs twice.
    """
    lines, ids = array("q"), []
    with _records(path, max_bytes) as records:
        column = _header(path, records, ("id",)).index("id")
        for line, cells in records:
            lines.append(line)
            ids.append(cells[column])
    return ids_of(path, ids, lambda index: f"id in line {lines[index]}")


def check_same_columns(public: Path, private: Path, max_bytes: int) -> None:
    """Checks that two files have the same features in the same order.

    Raises:
        InputError: They do not; the message names the first difference.
    """
    ours, theirs = (feature_names(path, max_bytes) for path in (private, public))
    if ours == theirs:
        return
    lacking = [name for name in theirs if name not in ours] or [name for name in ours if name not in theirs]
    if lacking:
        which, other = (private, public) if lacking[0] in theirs else (public, private)
        raise InputError(f"{which}: lacks the column {_quoted(lacking[:1])} of {other}")
    raise InputError(f"{private}: its columns are in another order than those of {public}")


def feature_names(path: Path, max_bytes: int) -> list[str]:
    """Names of the columns that are features."""
    with _records(path, max_bytes) as records:
        return [name for name in _header(path, records, NAMED[:2]) if name not in NAMED]


def find_categories(paths: Sequence[Path], columns: Sequence[str], max_bytes: int) -> dict[str, list[str]]:
    """Categories of columns over all files, sorted as text.

    Raises:
        InputError: A file cannot be read, or lacks a column; or a value is missing.
    """
    found: dict[str, set[str]] = {name: set() for name in columns}
    for path in paths:
        with _records(path, max_bytes) as records:
            header = _header(path, records, (*NAMED[:2], *columns))
            places = {name: header.index(name) for name in columns}
            for line, cells in records:
                for name, place in places.items():
                    if _is_missing(cells[place]):
                        raise InputError(f"{path}: line {line}: {_quoted([name])} has no value")
                    found[name].add(cells[place].strip())
    return {name: sorted(values) for name, values in found.items()}


def save_table(pool: Pool, path: Path, names: Sequence[str]) -> None:
    """Writes a pool of features as a `.csv` with the given column names; `load_table` reads back the same numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = NAMED if pool.public.all() else NAMED[:2]
    writer.writerow((*columns, *names))
    given = [column.tolist() for column in (pool.ids, pool.labels, pool.membership)[: len(columns)]]
    for *row, features in zip(*given, pool.images_to("save").tolist(), strict=True):
        writer.writerow((*row, *features))
    write_text(path, text.getvalue())


class _Table:
    """The rows of a file, as they are read.

    Args:
        header: Names of all columns.
        categories: Categories of the columns that are one-hot encoded.
    """

    def __init__(self, header: Sequence[str], categories: Categories) -> None:
        self.lines = array("q")
        self.named: dict[str, list[str]] = {name: [] for name in NAMED}
        self._header = header
        self._codes = {name: {value: code for code, value in enumerate(values)} for name, values in categories.items()}
        self._features = [name for name in header if name not in NAMED]
        self._numbers = array("f")
        self._missing: dict[str, tuple[int, int]] = {}
        self._text: dict[str, tuple[int, str]] = {}

    def add(self, line: int, cells: Sequence[str]) -> None:
        """Adds the row that begins on the given line."""
        self.lines.append(line)
        for name, cell in zip(self._header, cells, strict=True):
            if name in self.named:
                self.named[name].append(cell)
            else:
                self._numbers.append(self._as_number(name, line, cell))

    def check(self, path: Path) -> None:
        """Checks that there are rows, and that no value is missing or text.

        Raises:
            InputError: The check fails; the message names the columns.
        """
        if not self.lines:
            raise InputError(f"{path}: has no row below the header")
        if self._missing:
            count, first = sum(n for n, _ in self._missing.values()), min(line for _, line in self._missing.values())
            values = f"{count} values that are" if count > 1 else "1 value that is"
            raise InputError(
                f"{path}: {_columns(self._missing)} {values} missing or not finite in float32, the first in line "
                f"{first}; fill them in or leave the columns out"
            )
        if self._text:
            line, cell = next(iter(self._text.values()))
            raise InputError(
                f"{path}: {_columns(self._text)} text, as {cell[:40]!r} in line {line}; name them in "
                "challenge.one_hot or leave them out"
            )

    def features(self, path: Path, max_bytes: int) -> np.ndarray:
        """Features, float32 `[sample, feature]`.

        Raises:
            InputError: There are none, or they would take too much memory.
        """
        if not self._features:
            raise InputError(f"{path}: has no features, as its only columns are {', '.join(NAMED)}")
        numbers = np.array(self._numbers, np.float32).reshape(len(self.lines), len(self._features))
        widths = [len(self._codes.get(name, "1")) for name in self._features]
        allowed = min(max_bytes, _FREE_BYTES + _BYTES_A_BYTE * path.stat().st_size)
        needed = numbers.itemsize * len(numbers) * sum(widths)
        if needed > allowed:
            raise InputError(
                f"{path}: its {sum(widths)} features would take {needed} bytes, allowed are {allowed}; has a column in "
                "challenge.one_hot too many categories?"
            )
        if not self._codes:
            return numbers
        features = np.zeros((len(numbers), sum(widths)), np.float32)
        start = 0
        for name, column, width in zip(self._features, numbers.T, widths, strict=True):
            if name in self._codes:
                features[np.arange(len(numbers)), start + column.astype(int)] = 1
            else:
                features[:, start] = column
            start += width
        return features

    def _as_number(self, name: str, line: int, cell: str) -> float:
        if _is_missing(cell):
            count, first = self._missing.get(name, (0, line))
            self._missing[name] = count + 1, first
            return 0.0
        if name in self._codes:
            code = self._codes[name].get(cell.strip())
            if code is None:
                self._text.setdefault(name, (line, cell))
            return float(code or 0)
        number = _number(cell)
        if isinstance(number, str):
            self._text.setdefault(name, (line, cell))
            return 0.0
        return number


def _number(cell: str) -> float | str:
    """Number in a cell, or its text if it is not a number."""
    try:
        return float(cell) if "_" not in cell else cell
    except ValueError:
        return cell


def _whole(cell: str) -> int | str:
    """Integer in a cell, or its text if it is not an integer."""
    number = _number(cell)
    return int(number) if isinstance(number, float) and number.is_integer() else cell


def _is_missing(cell: str) -> bool:
    if cell.strip().lower() in _MISSING:
        return True
    number = _number(cell)
    return isinstance(number, float) and not abs(number) <= _LARGEST


def _header(path: Path, records: Iterator[tuple[int, list[str]]], required: Sequence[str]) -> list[str]:
    """Names of the columns."""
    _, cells = next(records, (1, []))
    header = [cell.strip() for cell in cells]
    missing = [name for name in required if name not in header]
    if missing:
        raise InputError(f"{path}: lacks the column {_quoted(missing)}; its first line names {_quoted(header)}")
    for place, name in enumerate(header, 1):
        if not name:
            raise InputError(f"{path}: column {place} has no name; is it an index of pandas? (index=False)")
        if header.index(name) != place - 1:
            raise InputError(f"{path}: column {_quoted([name])} occurs twice")
    return header


@contextmanager
def _records(path: Path, max_bytes: int) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Yields the line on which each row begins and its cells; all rows have as many cells as the first."""
    checked_size(path, max_bytes)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield _cells(path, csv.reader(_lines(file), strict=True))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV: {printable(str(error))}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _cells(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    line, width = 1, None
    for cells in reader:
        if cells:
            width = width or len(cells)
            if len(cells) != width:
                raise InputError(f"{path}: line {line} has {len(cells)} columns, the first {width}")
            yield line, cells
        line = reader.line_num + 1  # type: ignore[attr-defined]


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise csv.Error(f"a line is longer than {_MAX_LINE:,} characters")
        yield line


def _columns(names: Mapping[str, object]) -> str:
    several = len(names) > 1
    return f"column{'s' if several else ''} {_quoted(list(names))} {'hold' if several else 'holds'}"


def _quoted(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(printable(name[:40]) for name in names[:_LISTED]) or "nothing") + rest
