"""`submission.csv` and `truth.csv`: written so that every rule holds, read so that every broken rule is named."""

import csv
import hashlib
import io
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError, printable
from jaxmia.files import write_text
from jaxmia.leaderboard.table import SHOWN, Examples, Table, count_lines, parse_table, quote, read_bytes, refuse

COLUMNS = ("id", "score")
TRUTH_COLUMNS = ("id", "membership")

# What every CSV reader takes for a number; float() alone would also take "1_000" and digits of other scripts.
# Each digit has one way to match, so that a long row of digits is refused as fast as it is accepted.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SPARE_LINES = 1000
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """A submission that breaks no rule: the bytes that were checked are the bytes that are uploaded.

    Attributes:
        name: Path of the file, as it may be shown.
        data: Its bytes.
    """

    name: str
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Hash of the bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


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
        unranked = Examples()
        for i in np.flatnonzero(np.isnan(scores)):
            unranked.add(f"sample {i}")
        raise InputError(f"scores: {unranked}: not a number (nan), which has no rank")
    distinct, rank = np.unique(scores, return_inverse=True)
    if len(distinct) == 1:
        return np.full(scores.shape, 0.5)
    return rank / max(len(distinct) - 1, 1)


def text_ids(ids: Iterable[object]) -> list[str]:
    """Ids as files hold them: text as it is, integers in decimal digits.

    Args:
        ids: `[sample]`, a list or an array of text or integers.

    Raises:
        InputError: An id is neither text nor an integer.
    """
    return [_text_id(index, id_) for index, id_ in enumerate(ids)]


def write_submission(path: Path, ids: Iterable[object], scores: np.ndarray) -> None:
    """Writes `id,score` rows in the order given, each score with all the digits that tell it from its neighbours.

    Args:
        path: The CSV to write; it appears whole or not at all.
        ids: `[sample]`, unique, text or integers.
        scores: float64 `[sample]` in [0, 1], e.g. from `to_unit_interval`.

    Raises:
        InputError: The lengths differ, an id is empty or occurs twice, a score is outside [0, 1], or the file cannot be
            written.
    """
    names, scores = text_ids(ids), np.asarray(scores, np.float64)
    if scores.shape != (len(names),):
        raise InputError(f"{path}: scores have shape {scores.shape}, expected one for each of {len(names)} ids")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, repr(score)) for name, score in zip(names, scores.tolist(), strict=True))
    try:
        data = text.getvalue().encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: not written: an id holds {error.object[error.start]!r}, no character") from error
    if broken := broken_rules(data, names):
        raise InputError("\n".join(f"{path}: not written: {rule}" for rule in broken))
    write_text(path, text.getvalue())


def read_submission(path: Path, private_ids: Iterable[object]) -> Submission:
    """Reads a submission once, and checks what was read.

    Args:
        path: The CSV.
        private_ids: Ids of the private samples, text or integers, each of which needs exactly one score.

    Raises:
        InputError: The file cannot be read, or breaks rules; one line for each rule.
    """
    data = read_bytes(path)
    refuse(path, broken_rules(data, private_ids))
    return Submission(printable(str(path)), data)


def validate_submission(path: Path, private_ids: Iterable[object]) -> list[str]:
    """Every rule of the course's server that a submission breaks.

    Args:
        path: The CSV.
        private_ids: Ids of the private samples, text or integers, each of which needs exactly one score.

    Returns:
        One line for each broken rule, naming the file, the rows and the ids (the first few and a count); empty if the
        submission is valid.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    return [f"{printable(str(path))}: {rule}" for rule in broken_rules(read_bytes(path), private_ids)]


def broken_rules(data: bytes, private_ids: Iterable[object]) -> list[str]:
    """The rules that the bytes of a submission break, one line each; see `validate_submission`."""
    return parse_submission(data, private_ids).broken


def parse_submission(data: bytes, private_ids: Iterable[object]) -> Table:
    """The rows of a submission, and every rule that it breaks.

    A file of many more lines than there are private samples is refused before it is parsed.
    """
    names = text_ids(private_ids)
    expected = 1 + sum(1 + name.count("\n") + name.count("\r") for name in names)
    if (lines := count_lines(data)) > 2 * expected + _SPARE_LINES:
        return Table.unread(f"has {lines:,} lines, expected {expected:,}: the header and one for each private sample")
    table = parse_table(data, COLUMNS)
    if not table.ids:
        return table
    rules = _broken_duplicates(table) + _broken_matches(table, names) + _broken_scores(table, lowest=0, highest=1)
    return replace(table, broken=table.broken + rules)


def read_scores_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,score` rows; scores may be any finite number here.

    Returns:
        ids: str `[sample]`; scores: float64 `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or a row breaks a rule; one line for each rule.
    """
    table = parse_table(read_bytes(path), COLUMNS)
    refuse(path, table.broken + _broken_duplicates(table) + _broken_scores(table))
    return _id_array(table.ids), np.array(table.values, np.float64)


def read_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,membership` rows, membership 1 (member) or 0 (non-member).

    Returns:
        ids: str `[sample]`; members: bool `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or a row breaks a rule; one line for each rule.
    """
    table = parse_table(read_bytes(path), TRUTH_COLUMNS)
    refuse(path, table.broken + _broken_duplicates(table) + _broken_membership(table))
    return _id_array(table.ids), np.array([value == "1" for value in table.values], bool)


def match_truth(
    ids: Iterable[object], scores: np.ndarray, truth_ids: Iterable[object], members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Brings scores into the order of the truth. Scores of ids that the truth does not know are left out.

    Args:
        ids: `[sample]`, unique, of the scores; text or integers.
        scores: float64 `[sample]`.
        truth_ids: `[known]`, unique; text or integers.
        members: bool `[known]`.

    Returns:
        scores: float64 `[known]`; members: bool `[known]`.

    Raises:
        InputError: An id of the truth has no score, or the truth lacks members or non-members.
    """
    names, members = text_ids(truth_ids), np.asarray(members, bool)
    score_of = dict(zip(text_ids(ids), np.asarray(scores, np.float64).tolist(), strict=True))
    missing = Examples()
    for name in names:
        if name not in score_of:
            missing.add(quote(name))
    if missing.count:
        raise InputError(f"truth: {missing.count} of its {len(names)} ids have no score: {missing}")
    for name, found in (("member (1)", members.any()), ("non-member (0)", not members.all())):
        if not found:
            raise InputError(f"truth: has no {name} among {len(members)} ids; figures need members and non-members")
    return np.array([score_of[name] for name in names], np.float64), members


def _text_id(index: int, id_: object) -> str:
    if isinstance(id_, str):
        return str(id_)
    if not isinstance(id_, bool | np.bool):
        with suppress(TypeError):
            return str(operator.index(id_))  # pyright: ignore[reportArgumentType]
    raise InputError(f"ids: entry {index} is {quote(str(id_))}, expected text or an integer")


def _id_array(ids: list[str]) -> np.ndarray:
    # An array of fixed width would give every id the room of the longest.
    return np.array(ids, np.dtypes.StringDType())


def _broken_duplicates(table: Table) -> list[str]:
    distinct = set(table.ids)
    broken = _repeated_ids(table) if len(distinct) < len(table.ids) else []
    empty = Examples()
    if "" in distinct:
        for row in table.rows():
            if not row.id:
                empty.add(f"line {row.line}")
    return broken + ([f"{empty.counted('row')} without an id: {empty}"] if empty.count else [])


def _repeated_ids(table: Table) -> list[str]:
    repeated = [id_ for id_, count in Counter(table.ids).items() if id_ and count > 1]
    lines_of = {id_: Examples() for id_ in repeated[:SHOWN]}
    for row in table.rows():
        if row.id in lines_of:
            lines_of[row.id].add(row.line)
    twice = Examples()
    for id_ in repeated:
        twice.add(f"id {quote(id_)} (lines {lines_of.get(id_)})")
    return [f"{twice.counted('id')} more than once: {twice}"] if twice.count else []


def _broken_matches(table: Table, private_ids: list[str]) -> list[str]:
    known, given = set(private_ids), set(table.ids)
    unknown, missing = Examples(), Examples()
    for row in table.rows():
        if row.id and row.id not in known:
            unknown.add(row)
    for id_ in private_ids:
        if id_ not in given:
            missing.add(quote(id_))
    broken = [f"{unknown.counted('row')} with an id that is not private: {unknown}"] if unknown.count else []
    return broken + ([f"{missing.counted('private id')} without a row: {missing}"] if missing.count else [])


def _broken_scores(table: Table, lowest: float = -math.inf, highest: float = math.inf) -> list[str]:
    kinds = {kind: Examples() for kind in ("not a number", "not finite", f"outside [{lowest}, {highest}]")}
    not_number, not_finite, outside = kinds.values()
    for row in table.rows():
        if row.value is None:
            continue
        if _NOT_FINITE.fullmatch(row.value):
            not_finite.add(row, row.value)
        elif not _NUMBER.fullmatch(row.value):
            not_number.add(row, row.value)
        elif math.isinf(float(row.value)):  # 1e999
            not_finite.add(row, row.value)
        elif not lowest <= float(row.value) <= highest:
            outside.add(row, row.value)
    return [f"{found.counted('score')} {kind}: {found}" for kind, found in kinds.items() if found.count]


def _broken_membership(table: Table) -> list[str]:
    strange = Examples()
    for row in table.rows():
        if row.value not in ("0", "1", None):
            strange.add(row, row.value)
    return [f"membership is neither 1 (member) nor 0 (non-member): {strange}"] if strange.count else []
