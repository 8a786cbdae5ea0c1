"""Writes, reads and checks `submission.csv` and `truth.csv`, and reports every rule that a file breaks."""

import csv
import hashlib
import io
import math
import operator
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError, printable
from jaxmia.files import write_text
from jaxmia.leaderboard.table import (
    Examples,
    Table,
    count_lines,
    parse_table,
    quote,
    read_bytes,
    refuse,
    repeated_ids,
)

COLUMNS = ("id", "score")
TRUTH_COLUMNS = ("id", "membership")

# Numbers as every CSV reader accepts them; float() would also accept "1_000" and digits of other scripts.
# Each digit can match in only one way, so that a long row of digits is rejected as fast as it is accepted.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SPARE_LINES = 1000
_MAX_TIED = 0.05
"""Share of a submission's scores that may have the highest value without a warning."""
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """A valid submission; exactly the bytes that were checked are uploaded.

    Attributes:
        name: Printable path of the file.
        data: Content of the file.
    """

    name: str
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def to_unit_interval(scores: np.ndarray) -> np.ndarray:
    """Maps scores to [0, 1] by rank: the lowest becomes 0, the highest 1, and ties share a rank.

    With `K` distinct scores the values are `k / (K - 1)`, so that different scores stay different, as text too.
    Clipping would merge the extremes, which decide the TPR at a low FPR. If all scores are equal, all become 1/2.

    Args:
        scores: float64 `[sample]`, higher means member, in any unit; infinities rank like other values.

    Returns:
        float64 `[sample]`.

    Raises:
        InputError: A score is not a number.

    >>> to_unit_interval(np.array([-3.0, 7.5, 7.5, np.inf]))
    array([0. , 0.5, 0.5, 1. ])
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
    """Converts ids to text as in files: text is kept, integers become decimal digits.

    Args:
        ids: `[sample]`, a list or an array of text or integers.

    Raises:
        InputError: An id is neither text nor an integer.
    """
    return [_text_id(index, id_) for index, id_ in enumerate(ids)]


def write_submission(path: Path, ids: Iterable[object], scores: np.ndarray) -> None:
    """Writes `id,score` rows in the order given, each score with all digits that distinguish it from others.

    Args:
        path: Path of the CSV, which is written atomically.
        ids: `[sample]`, unique, text or integers.
        scores: float64 `[sample]` in [0, 1], such as from `to_unit_interval`.

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
        character = error.object[error.start]
        raise InputError(f"{path}: not written: an id contains {character!r}, which UTF-8 cannot encode") from error
    if broken := broken_rules(data, names):
        raise InputError("\n".join(f"{path}: not written: {rule}" for rule in broken))
    write_text(path, text.getvalue())


def read_submission(path: Path, private_ids: Iterable[object]) -> Submission:
    """Reads and checks a submission.

    Args:
        path: Path of the CSV.
        private_ids: Ids of the private samples, text or integers, each of which needs exactly one score.

    Raises:
        InputError: The file cannot be read, or breaks rules; the message has one line for each.
    """
    data = read_bytes(path)
    refuse(path, broken_rules(data, private_ids))
    return Submission(printable(str(path)), data)


def validate_submission(path: Path, private_ids: Iterable[object]) -> list[str]:
    """Lists every rule of the course's server that a submission breaks.

    Args:
        path: Path of the CSV.
        private_ids: Ids of the private samples, text or integers, each of which needs exactly one score.

    Returns:
        One line for each broken rule, naming the file, the rows and the ids (the first few and a count); empty if the
        submission is valid.

    Raises:
        InputError: The file is missing or cannot be read.

    >>> write_submission(Path("submission.csv"), ["a", "b"], np.array([0.25, 1.0]))
    >>> validate_submission(Path("submission.csv"), ["a", "b"])
    []
    >>> validate_submission(Path("submission.csv"), ["a", "b", "c"])
    ["submission.csv: 1 private id without a row: 'c'"]
    """
    return [f"{printable(str(path))}: {rule}" for rule in broken_rules(read_bytes(path), private_ids)]


def broken_rules(data: bytes, private_ids: Iterable[object]) -> list[str]:
    """Lists the rules that the content of a submission breaks, as `validate_submission` does for a file."""
    return parse_submission(data, private_ids).broken


def parse_submission(data: bytes, private_ids: Iterable[object]) -> Table:
    """Parses the rows of a submission, with every rule that it breaks.

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


def warn_of_ties(submission: Submission) -> str | None:
    """Warning that so many scores share the highest value that a low FPR may be out of reach; None if few do.

    Samples of equal score are all classified alike. If more than 5 % of the non-members share the highest score, every
    threshold that finds a member exceeds an FPR of 5 %.

    Args:
        submission: Valid submission.

    >>> print(warn_of_ties(Submission("s.csv", b"id,score\\na,0.5\\nb,0.5\\n")))
    s.csv: 2 of 2 scores are 0.5, the highest: TPR at 5 % FPR is 0 if more than 5 % of the non-members are among them
    """
    scores = [float(value) for value in parse_table(submission.data, COLUMNS).values if value is not None]
    highest = max(scores)
    if (tied := scores.count(highest)) <= _MAX_TIED * len(scores):
        return None
    return (
        f"{submission.name}: {tied:,} of {len(scores):,} scores are {highest:g}, the highest: TPR at 5 % FPR is 0 if "
        "more than 5 % of the non-members are among them"
    )


def read_scores_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,score` rows, whose scores may be any finite numbers.

    Returns:
        ids: str `[sample]`; scores: float64 `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or breaks rules; the message has one line for each.
    """
    table = parse_table(read_bytes(path), COLUMNS)
    refuse(path, table.broken + _broken_duplicates(table) + _broken_scores(table))
    return _id_array(table.ids), np.array(table.values, np.float64)


def read_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads `id,membership` rows, where membership is 1 (member) or 0 (non-member).

    Returns:
        ids: str `[sample]`; members: bool `[sample]`, in the file's order.

    Raises:
        InputError: The file is missing or unreadable, or breaks rules; the message has one line for each.
    """
    table = parse_table(read_bytes(path), TRUTH_COLUMNS)
    refuse(path, table.broken + _broken_duplicates(table) + _broken_membership(table))
    return _id_array(table.ids), np.array([value == "1" for value in table.values], bool)


def match_truth(
    ids: Iterable[object],
    scores: np.ndarray,
    truth_ids: Iterable[object],
    members: np.ndarray,
    *,
    truth: object = "truth",
    source: object = "the scores",
) -> tuple[np.ndarray, np.ndarray]:
    """Orders scores like the truth, and leaves out scores of ids that are not in the truth.

    Args:
        ids: Ids of the scores, `[sample]`, unique, text or integers.
        scores: float64 `[sample]`.
        truth_ids: Ids of the truth, `[known]`, unique, text or integers.
        members: bool `[known]`.
        truth: Path of the truth, for messages.
        source: Path of the scores, for messages.

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
        raise InputError(
            f"{printable(str(truth))}: {missing.count} of its {len(names)} ids have no score in "
            f"{printable(str(source))}: {missing}"
        )
    for name, found in (("member (1)", members.any()), ("non-member (0)", not members.all())):
        if not found:
            raise InputError(
                f"{printable(str(truth))}: has no {name} among {len(members)} ids; figures need members and non-members"
            )
    return np.array([score_of[name] for name in names], np.float64), members


def _text_id(index: int, id_: object) -> str:
    if isinstance(id_, str):
        return str(id_)
    if not isinstance(id_, bool | np.bool):
        with suppress(TypeError):
            return str(operator.index(id_))  # pyright: ignore[reportArgumentType]
    raise InputError(f"ids: entry {index} is {quote(str(id_))}, expected text or an integer")


def _id_array(ids: list[str]) -> np.ndarray:
    # In an array of fixed width, every id would take the memory of the longest.
    return np.array(ids, np.dtypes.StringDType())


def _broken_duplicates(table: Table) -> list[str]:
    distinct = set(table.ids)
    broken = repeated_ids(table, "id") if len(distinct) < len(table.ids) else []
    empty = Examples()
    if "" in distinct:
        for row in table.rows():
            if not row.id:
                empty.add(f"line {row.line}")
    return broken + ([f"{empty.counted('row')} without an id: {empty}"] if empty.count else [])


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
