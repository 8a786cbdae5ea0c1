"""`submission.csv` and `truth.csv`: written so that every rule holds, read so that every broken rule is named."""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import write_text

COLUMNS = ("id", "score")
TRUTH_COLUMNS = ("id", "membership")
MAX_BYTES = 64 * 2**20
"""Larger files are refused unread: a submission of a million samples takes half of it."""

_SHOWN = 3
_BOM = b"\xef\xbb\xbf"
# What every CSV reader takes for a number; float() alone would also take "1_000" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row of a two-column CSV: the line it begins on (the header is line 1), its id and its value, as text.

    The value is None where the row has not two columns; its id still counts, so that it is not called missing too.
    """

    line: int
    id: str
    value: str | None

    def __str__(self) -> str:
        return f"line {self.line} (id {_quote(self.id)})"


@dataclass(frozen=True)
class Table:
    """The rows of a two-column CSV that could be read, and each rule that the text itself broke, one line each."""

    rows: list[Row]
    broken: list[str]


def to_unit_interval(scores: np.ndarray) -> np.ndarray:
    """Ranks of scores, scaled to [0, 1]: the lowest is 0, the highest 1, ties share a rank.

    With `K` distinct scores the values are `k / (K - 1)`, so two scores that differ still differ here, and as text too
    (a clamp would merge the extremes, which is where TPR at a low FPR is decided). If all are equal, all become 1/2.

    Args:
        scores: float64 `[sample]`, higher = member, in any unit; infinities rank like other values.

    Returns:
        float64 `[sample]`.

    Raises:
        InputError: A score is not a number.
    """
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any():
        where = np.flatnonzero(np.isnan(scores))
        raise InputError(f"scores: {_listed([f'sample {i}' for i in where])}: not a number (nan), which has no rank")
    distinct, rank = np.unique(scores, return_inverse=True)
    if len(distinct) == 1:
        return np.full(scores.shape, 0.5)
    return rank / max(len(distinct) - 1, 1)


def write_submission(path: Path, ids: Sequence[str], scores: np.ndarray) -> None:
    """Writes `id,score` rows in the order given, each score with all the digits that tell it from its neighbours.

    Args:
        path: The CSV to write; it appears whole or not at all.
        ids: `[sample]`, unique.
        scores: float64 `[sample]` in [0, 1], e.g. from `to_unit_interval`.

    Raises:
        InputError: The lengths differ, an id is empty or comes twice, a score is outside [0, 1], or the file cannot be
            written.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(ids),):
        raise InputError(f"{path}: scores have shape {scores.shape}, expected one for each of {len(ids)} ids")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((str(id_), repr(score)) for id_, score in zip(ids, scores.tolist(), strict=True))
    try:
        data = text.getvalue().encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: not written: an id holds {error.object[error.start]!r}, no character") from error
    if broken := broken_rules(data, [str(id_) for id_ in ids]):
        raise InputError("\n".join(f"{path}: not written: {rule}" for rule in broken))
    write_text(path, text.getvalue())


def validate_submission(path: Path, private_ids: Sequence[str]) -> list[str]:
    """Every rule of the course's server that a submission breaks.

    Args:
        path: The CSV.
        private_ids: The ids of the private samples, each of which needs exactly one score.

    Returns:
        One line for each broken rule, naming the file, the rows and the ids (the first few and a count); empty if the
        submission is valid.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    return [f"{path}: {rule}" for rule in broken_rules(read_bytes(path), private_ids)]


def broken_rules(data: bytes, private_ids: Sequence[str]) -> list[str]:
    """The rules that the bytes of a submission break, one line each; see `validate_submission`."""
    table = parse_table(data, COLUMNS)
    if not table.rows:
        return table.broken
    return (
        table.broken
        + _broken_duplicates(table.rows)
        + _broken_matches(table.rows, private_ids)
        + _broken_scores(table.rows, lowest=0, highest=1)
    )


def read_scores_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,score` rows; scores may be any finite number here.

    Returns:
        ids: str `[sample]`; scores: float64 `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or a row breaks a rule; one line for each rule.
    """
    table = parse_table(read_bytes(path), COLUMNS)
    _refuse(path, table.broken + _broken_duplicates(table.rows) + _broken_scores(table.rows))
    return _ids(table.rows), np.array([row.value for row in table.rows], np.float64)


def read_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,membership` rows, membership 1 (member) or 0 (non-member).

    Returns:
        ids: str `[sample]`; members: bool `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or a row breaks a rule; one line for each rule.
    """
    table = parse_table(read_bytes(path), TRUTH_COLUMNS)
    strange = [f"{row}: {_quote(str(row.value))}" for row in table.rows if row.value not in ("0", "1", None)]
    broken = [f"membership is neither 1 (member) nor 0 (non-member): {_listed(strange)}"] if strange else []
    _refuse(path, table.broken + _broken_duplicates(table.rows) + broken)
    return _ids(table.rows), np.array([row.value == "1" for row in table.rows], bool)


def match_truth(
    ids: np.ndarray, scores: np.ndarray, truth_ids: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Brings scores into the order of the truth. Scores of ids that the truth does not know are left out.

    Args:
        ids: str `[sample]`, unique, of the scores.
        scores: float64 `[sample]`.
        truth_ids: str `[known]`, unique.
        members: bool `[known]`.

    Returns:
        scores: float64 `[known]`; members: bool `[known]`.

    Raises:
        InputError: An id of the truth has no score, or the truth lacks members or non-members.
    """
    score_of = dict(zip(ids.tolist(), np.asarray(scores, np.float64).tolist(), strict=True))
    missing = [id_ for id_ in truth_ids.tolist() if id_ not in score_of]
    if missing:
        raise InputError(
            f"truth: {len(missing)} of its {len(truth_ids)} ids have no score: {_listed(map(_quote, missing))}"
        )
    for name, found in (("member (1)", members.any()), ("non-member (0)", not members.all())):
        if not found:
            raise InputError(f"truth: has no {name} among {len(members)} ids; figures need members and non-members")
    return np.array([score_of[id_] for id_ in truth_ids.tolist()], np.float64), np.asarray(members, bool)


def read_bytes(path: Path) -> bytes:
    """The bytes of a CSV; of a file above `MAX_BYTES` only one more, by which `parse_table` knows it.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_table(data: bytes, columns: tuple[str, str]) -> Table:
    """Splits the bytes of a two-column CSV into rows, collecting every rule that its form breaks."""
    text, broken = _decode(data)
    if not text:
        return Table([], broken or [f"is empty, expected the header {','.join(columns)} and one row for each sample"])
    records, failure = _split(text)
    header = records[0][1] if records else []
    if tuple(header) != columns:
        broken.append(f"line 1: header is {_quote(','.join(header))}, expected {','.join(columns)!r}")
    blank = [f"line {line}" for line, fields in records[1:] if not any(map(str.strip, fields))]
    if blank:
        broken.append(f"{_count(blank, 'row')} blank: {_listed(blank)}")
    filled = [(line, fields) for line, fields in records[1:] if any(map(str.strip, fields))]
    uneven = [f"line {line}: {_count(fields, 'column')}" for line, fields in filled if len(fields) != 2]
    if uneven:
        broken.append(f"{_count(uneven, 'row')} not of two columns: {_listed(uneven)}")
    if failure:
        broken.append(failure)
    rows = [Row(line, fields[0], fields[1] if len(fields) == 2 else None) for line, fields in filled]
    if not rows and not failure:
        broken.append("has no row below the header")
    return Table(rows, broken)


def _decode(data: bytes) -> tuple[str, list[str]]:
    """The text, empty where it cannot be used, and the rules that its encoding breaks."""
    if len(data) > MAX_BYTES:
        return "", [f"is larger than {MAX_BYTES:,} bytes, which no submission needs"]
    broken = ["begins with a byte order mark; save it as plain UTF-8"] if data.startswith(_BOM) else []
    data = data.removeprefix(_BOM)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", [*broken, f"line {line}: is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"]
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        return "", [*broken, f"line {line}: holds a NUL character; save it as plain UTF-8"]
    return text if text.strip() else "", broken


def _split(text: str) -> tuple[list[tuple[int, list[str]]], str | None]:
    """Records with the line each begins on, and what stopped the reader, if anything did."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    begin = 1
    try:
        for fields in reader:
            records.append((begin, fields))
            begin = reader.line_num + 1
    except csv.Error as error:
        return records, f"line {begin}: cannot be read as CSV, nor what follows: {error}"
    return records, None


def _broken_duplicates(rows: list[Row]) -> list[str]:
    lines = defaultdict(list)
    for row in rows:
        lines[row.id].append(row.line)
    empty = [f"line {line}" for line in lines.pop("", ())]
    twice = [f"id {_quote(id_)} (lines {_listed(map(str, at))})" for id_, at in lines.items() if len(at) > 1]
    broken = [f"{_count(twice, 'id')} more than once: {_listed(twice)}"] if twice else []
    return broken + ([f"{_count(empty, 'row')} without an id: {_listed(empty)}"] if empty else [])


def _broken_matches(rows: list[Row], private_ids: Sequence[str]) -> list[str]:
    known, given = set(private_ids), {row.id for row in rows}
    unknown = [str(row) for row in rows if row.id and row.id not in known]
    missing = [_quote(id_) for id_ in private_ids if id_ not in given]
    broken = [f"{_count(unknown, 'row')} with an id that is not private: {_listed(unknown)}"] if unknown else []
    return broken + ([f"{_count(missing, 'private id')} without a row: {_listed(missing)}"] if missing else [])


def _broken_scores(rows: list[Row], lowest: float = -math.inf, highest: float = math.inf) -> list[str]:
    not_number, not_finite, outside = [], [], []
    for row in rows:
        if row.value is None:
            continue
        shown = f"{row}: {_quote(row.value)}"
        if _NOT_FINITE.fullmatch(row.value):
            not_finite.append(shown)
        elif not _NUMBER.fullmatch(row.value):
            not_number.append(shown)
        elif math.isinf(float(row.value)):  # 1e999
            not_finite.append(shown)
        elif not lowest <= float(row.value) <= highest:
            outside.append(shown)
    kinds = {"not a number": not_number, "not finite": not_finite, f"outside [{lowest}, {highest}]": outside}
    return [f"{_count(rows, 'score')} {kind}: {_listed(rows)}" for kind, rows in kinds.items() if rows]


def _ids(rows: list[Row]) -> np.ndarray:
    return np.array([row.id for row in rows], np.str_)


def _refuse(path: Path, broken: list[str]) -> None:
    if broken:
        raise InputError("\n".join(f"{path}: {rule}" for rule in broken))


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _listed(things: Iterable[str]) -> str:
    things = list(things)
    rest = f", and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return ", ".join(things[:_SHOWN]) + rest


def _quote(text: str) -> str:
    # repr also keeps control characters of a hostile file away from the terminal.
    return repr(_short(text))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
