import csv
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.leaderboard import table
from jaxmia.leaderboard.submission import (
    Submission,
    broken_rules,
    match_truth,
    read_scores_csv,
    read_submission,
    read_truth,
    to_unit_interval,
    validate_submission,
    warn_of_ties,
    write_submission,
)
from tests.leaderboard.memory import traced

IDS = ["a", "b", "c"]
VALID = "id,score\na,0\nb,0.5\nc,1\n"


@given(st.lists(st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, np.nextafter(1, 2)]), min_size=1))
def test_unit_interval_orders_every_pair_as_before_also_when_read_back_from_text(scores):
    unit = [float(repr(value)) for value in to_unit_interval(np.array(scores)).tolist()]
    assert all(0 <= value <= 1 for value in unit)
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            assert (a < b, a == b) == (unit[i] < unit[j], unit[i] == unit[j])


def test_unit_interval_is_the_scaled_rank():
    np.testing.assert_array_equal(to_unit_interval(np.array([5.0, -1e300, 5.0, np.inf])), [0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(to_unit_interval(np.array([3.0, 3.0])), [0.5, 0.5])
    assert to_unit_interval(np.array([])).shape == (0,)


def test_unit_interval_refuses_nan():
    with pytest.raises(InputError, match=r"scores: sample 1, sample 3: not a number"):
        to_unit_interval(np.array([0.0, np.nan, 1.0, np.nan]))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1),
        st.floats(-1e6, 1e6),
        min_size=1,
    )
)
def test_what_is_written_is_valid_and_reads_back_exactly(tmp_path_factory, score_of):
    path = tmp_path_factory.mktemp("submission") / "submission.csv"
    ids, scores = list(score_of), to_unit_interval(np.array(list(score_of.values())))
    write_submission(path, ids, scores)
    assert validate_submission(path, ids) == []
    read_ids, read_scores = read_scores_csv(path)
    assert read_ids.tolist() == ids
    np.testing.assert_array_equal(read_scores, scores)


def test_the_file_is_plain_csv(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, ["7", "x,y"], np.array([1.0, 1 / 3]))
    assert path.read_bytes() == b'id,score\n7,1.0\n"x,y",0.3333333333333333\n'
    with path.open(newline="") as file:
        assert list(csv.reader(file))[2] == ["x,y", "0.3333333333333333"]


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        (["a", "a"], [0, 1], "1 id more than once: id 'a' \\(lines 2, 3\\)"),
        (["a", ""], [0, 1], "1 row without an id: line 3"),
        (["a", "b"], [0, 1.5], "1 score outside \\[0, 1\\]: line 3 \\(id 'b'\\): '1.5'"),
        (["a", "b"], [0, np.nan], "1 score not finite: line 3 \\(id 'b'\\): 'nan'"),
        (["a"], [0, 1], "scores have shape \\(2,\\), expected one for each of 1 ids"),
        (["a", "\ud800"], [0, 1], r"an id contains '\\ud800'"),
        ([], [], "has no row below the header"),
    ],
)
def test_nothing_invalid_is_written(tmp_path, ids, scores, message):
    path = tmp_path / "submission.csv"
    with pytest.raises(InputError, match=message):
        write_submission(path, ids, np.array(scores))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_valid_whatever_the_line_ends_and_the_order(end):
    assert broken_rules(f"id,score{end}c,1e-3{end}a,.5{end}b,1.{end}".encode(), IDS) == []
    assert broken_rules(VALID.rstrip().encode(), IDS) == []


@pytest.mark.parametrize(
    ("data", "rules"),
    [
        (b"", ["is empty, expected the header id,score and one row for each sample"]),
        (b" \n\n", ["is empty, expected the header id,score and one row for each sample"]),
        (b"id,score\n", ["has no row below the header"]),
        (VALID.replace("id,score", "score,id"), ["line 1: header is 'score,id', expected 'id,score'"]),
        (VALID.replace("id,score", "id, score"), ["line 1: header is 'id, score', expected 'id,score'"]),
        (
            VALID.removeprefix("id,score\n"),
            ["line 1: header is 'a,0', expected 'id,score'", "1 private id without a row: 'a'"],
        ),
        ("\ufeff" + VALID, ["begins with a byte order mark; save it as plain UTF-8"]),
        (VALID.encode("utf-16"), ["line 1: is not UTF-8 (byte 0xff at 0)"]),
        (VALID.encode() + b"\xe9,0\n", ["line 5: is not UTF-8 (byte 0xe9 at 23)"]),
        (VALID + "d\0,1\n", ["line 5: contains a NUL character; save it as plain UTF-8"]),
        (VALID + "\n", ["1 row blank: line 5"]),
        (VALID.replace("b,", "\n,\nb,"), ["2 rows blank: line 3, line 4"]),
        (VALID.replace("0.5", "0.5,1"), ["1 row not of two columns: line 3: 3 columns"]),
        (VALID.replace("b,0.5", "b"), ["1 row not of two columns: line 3: 1 column"]),
        (VALID + "a,0.25\n", ["1 id more than once: id 'a' (lines 2, 5)"]),
        (VALID.replace("b,", "B,"),
         ["1 row with an id that is not private: line 3 (id 'B')", "1 private id without a row: 'b'"]),
        (VALID.replace("b,", ","), ["1 row without an id: line 3", "1 private id without a row: 'b'"]),
        (VALID.replace("0.5", "1_0"), ["1 score not a number: line 3 (id 'b'): '1_0'"]),
        (VALID.replace("0.5", "\u0660"), ["1 score not a number: line 3 (id 'b'): '\u0660'"]),
        (VALID.replace("0.5", " 0.5"), ["1 score not a number: line 3 (id 'b'): ' 0.5'"]),
        (VALID.replace("0.5", ""), ["1 score not a number: line 3 (id 'b'): ''"]),
        (VALID.replace("0.5", "NaN"), ["1 score not finite: line 3 (id 'b'): 'NaN'"]),
        (VALID.replace("0.5", "-inf"), ["1 score not finite: line 3 (id 'b'): '-inf'"]),
        (VALID.replace("0.5", "1e999"), ["1 score not finite: line 3 (id 'b'): '1e999'"]),
        (VALID.replace("0.5", "-1e-9"), ["1 score outside [0, 1]: line 3 (id 'b'): '-1e-9'"]),
        (VALID.replace("0.5", "1.0001"), ["1 score outside [0, 1]: line 3 (id 'b'): '1.0001'"]),
        (
            VALID.replace("b,0.5", '"b,0.5'),
            ["line 3: cannot be read as CSV, nor what follows: unexpected end of data",
             "2 private ids without a row: 'b', 'c'"],
        ),
        (VALID.replace("b,", "\x1b[31m,"),
         [r"1 row with an id that is not private: line 3 (id '\x1b[31m')", "1 private id without a row: 'b'"]),
    ],
)  # fmt: skip
def test_each_broken_rule_is_one_line(data, rules):
    data = data if isinstance(data, bytes) else data.encode()
    assert broken_rules(data, IDS) == rules


def test_all_broken_rules_come_at_once_and_long_lists_are_cut_short(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,points\n\n" + "x,2\n" * 5 + "".join(f"{i},nan\n" for i in range(9)))
    assert validate_submission(path, [str(i) for i in range(5000)]) == [
        f"{path}: line 1: header is 'id,points', expected 'id,score'",
        f"{path}: 1 row blank: line 2",
        f"{path}: 1 id more than once: id 'x' (lines 3, 4, 5, and 2 more)",
        f"{path}: 5 rows with an id that is not private: line 3 (id 'x'), line 4 (id 'x'), line 5 (id 'x'), and 2 more",
        f"{path}: 4991 private ids without a row: '9', '10', '11', and 4988 more",
        f"{path}: 9 scores not finite: line 8 (id '0'): 'nan', line 9 (id '1'): 'nan', line 10 (id '2'): 'nan', "
        "and 6 more",
        f"{path}: 5 scores outside [0, 1]: line 3 (id 'x'): '2', line 4 (id 'x'): '2', line 5 (id 'x'): '2', "
        "and 2 more",
    ]


def test_lines_are_counted_through_quoted_line_breaks():
    assert broken_rules(b'id,score\n"a\nb",0\nc,2\n', ["a\nb", "c"]) == ["1 score outside [0, 1]: line 4 (id 'c'): '2'"]


def test_a_long_id_is_cut_short():
    rules = broken_rules(f"id,score\n{'x' * 1000},0\n".encode(), ["a"])
    assert rules[0] == f"1 row with an id that is not private: line 2 (id '{'x' * 37}...')"


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_BYTES", 10)
    path = tmp_path / "submission.csv"
    path.write_text(VALID)
    assert validate_submission(path, IDS) == [f"{path}: is larger than 10 bytes, which no submission needs"]
    with pytest.raises(InputError, match="is larger than 10 bytes"):
        read_scores_csv(path)


@pytest.mark.parametrize(
    "data",
    [
        b"a\n" * 2**17,
        b"a,1\n" * 2**17,
        b"\n" * 2**17,
        b"".join(b"%x,\n" % i for i in range(2**16)),
        b"ab," * 2**16,
        b'"\n",' * 2**17,
        b"a,0\n" * 2**16 + b"x" * 130_000 + b",0\n",
    ],
    ids=["one column", "one id", "blank", "many ids", "one row", "one row of many lines", "one long id"],
)
@pytest.mark.parametrize("read", [read_truth, read_scores_csv])
def test_any_table_takes_a_small_multiple_of_its_size(tmp_path, read, data):
    path = tmp_path / "table.csv"
    path.write_bytes((b"id,membership\n" if read is read_truth else b"id,score\n") + data)
    with traced() as peak, pytest.raises(InputError, match=r"table\.csv: "):
        read(path)
    assert peak() < 30 * len(data)


def test_ids_of_unequal_length_take_no_more_room_than_their_text(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("id,membership\n" + "".join(f"{i},1\n" for i in range(20_000)) + "x" * 100_000 + ",0\n")
    with traced() as peak:
        ids, _ = read_truth(path)
    assert ids.tolist()[-1] == "x" * 100_000
    assert peak() < 50 * path.stat().st_size


def test_far_too_many_lines_are_one_broken_rule():
    rule = "has 1,010 lines, expected 4: the header and one for each private sample"
    assert broken_rules(b"id,score\n" + b"a,0\n" * 1009, IDS) == [rule]
    assert rule not in broken_rules(b"id,score\n" + b"a,0\n" * 1007, IDS)
    names = ["\n" * 2000, "\r\n" * 2000]
    assert broken_rules(b'id,score\n"%s",0\n"%s",1\n' % tuple(map(str.encode, names)), names) == []
    assert broken_rules(b"id,score\n" + b"x" * 2**18 + b"y\n", IDS)[0] == (
        "line 2: cannot be read as CSV, nor what follows: line longer than 262,144 characters"
    )


@pytest.mark.parametrize("digits", [b"1" * 131_000 + b"x", b"." + b"1" * 131_000 + b"x", b"1e" + b"1" * 131_000 + b"x"])
def test_a_long_row_of_digits_is_refused_at_once(digits):
    start = time.process_time()
    assert broken_rules(b"id,score\na," + digits + b"\n", ["a"])[0].startswith("1 score not a number: line 2 (id 'a')")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("ids", [[3, 1, 2], np.array([3, 1, 2]), np.array(["3", "1", "2"]), ("3", 1, np.int8(2))])
def test_ids_are_text_or_integers_in_any_sequence(tmp_path, ids):
    path = tmp_path / "submission.csv"
    write_submission(path, ids, np.array([0.0, 0.5, 1.0]))
    assert path.read_text() == "id,score\n3,0.0\n1,0.5\n2,1.0\n"
    assert validate_submission(path, ids) == []
    assert read_submission(path, ids).data == path.read_bytes()
    scores, members = match_truth(ids, np.array([0.1, 0.2, 0.3]), [1, "2", "3"], np.array([True, False, True]))
    assert (scores.tolist(), members.tolist()) == ([0.2, 0.3, 0.1], [True, False, True])


@pytest.mark.parametrize(("ids", "entry"), [([None], "None"), ([1.0], "1.0"), (["a", True], "True"), ([b"a"], "b'a'")])
def test_ids_of_another_kind_are_refused(ids, entry):
    with pytest.raises(InputError, match=f"ids: entry {len(ids) - 1} is .{entry}., expected text or an integer"):
        broken_rules(b"id,score\na,0\n", ids)


def test_a_path_that_is_no_text_is_shown_as_far_as_it_is(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9\n.csv")
    path.write_text(VALID)
    assert read_submission(path, IDS).name == f"{tmp_path}/caf??.csv"
    with pytest.raises(InputError, match=r"/caf\?\?\.csv: 1 private id without a row: 'd'"):
        read_submission(path, [*IDS, "d"])


def test_a_field_too_long_for_csv_is_one_line():
    rules = broken_rules(b"id,score\n" + b"x" * 200_000 + b",0\n", ["a"])
    assert rules[0] == "line 2: cannot be read as CSV, nor what follows: field larger than field limit (131072)"


@given(st.binary() | st.binary().map(b"id,score\n".__add__) | st.text(alphabet='a,"0.1e\n\r').map(str.encode))
def test_any_bytes_give_rules_and_no_traceback(data):
    rules = broken_rules(data, IDS)
    assert all("\n" not in rule and "\x1b" not in rule for rule in rules)
    if not rules:
        rows = list(csv.reader(data.decode().splitlines()))
        assert rows[0] == ["id", "score"]
        assert sorted(id_ for id_, _ in rows[1:]) == IDS
        assert all(0 <= float(score) <= 1 for _, score in rows[1:])


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path / 'none.csv'))}: cannot be read: No such file"):
        validate_submission(tmp_path / "none.csv", IDS)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_truth(tmp_path)


def test_scores_outside_the_unit_interval_can_be_evaluated(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("id,score\nb,-3.5\na,1e3\n")
    ids, scores = read_scores_csv(path)
    assert (ids.tolist(), scores.tolist()) == (["b", "a"], [-3.5, 1000.0])
    path.write_text("id,score\nb,inf\na,x\na,1\n")
    with pytest.raises(InputError) as error:
        read_scores_csv(path)
    assert str(error.value).splitlines() == [
        f"{path}: 1 id more than once: id 'a' (lines 3, 4)",
        f"{path}: 1 score not a number: line 3 (id 'a'): 'x'",
        f"{path}: 1 score not finite: line 2 (id 'b'): 'inf'",
    ]


def test_truth_is_read(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("id,membership\nb,1\na,0\n")
    ids, members = read_truth(path)
    assert (ids.tolist(), members.tolist()) == (["b", "a"], [True, False])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,score\na,1\n", "line 1: header is 'id,score', expected 'id,membership'"),
        ("id,membership\na,0.5\n", r"neither 1 \(member\) nor 0 \(non-member\): line 2 \(id 'a'\): '0.5'"),
        ("id,membership\na,\n", r"neither 1 \(member\) nor 0 \(non-member\): line 2 \(id 'a'\): ''"),
        ("id,membership\na,1\na,0\n", r"1 id more than once: id 'a' \(lines 2, 3\)"),
        ("id,membership\na\n", "1 row not of two columns: line 2: 1 column$"),
    ],
)
def test_bad_truth_is_refused(tmp_path, text, message):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_truth(path)


def test_scores_are_brought_into_the_order_of_the_truth():
    ids, scores = np.array(["a", "b", "c", "public"]), np.array([0.1, 0.2, 0.3, 0.4])
    matched, members = match_truth(ids, scores, np.array(["c", "a", "b"]), np.array([True, False, True]))
    assert (matched.tolist(), members.tolist()) == ([0.3, 0.1, 0.2], [True, False, True])


def test_truth_without_scores_or_without_both_kinds_is_refused():
    truth_ids, members = np.array([f"t{i}" for i in range(5)]), np.array([True, False, True, False, True])
    missing = r"^t\.csv: 4 of its 5 ids have no score in run/s\.csv: 't1', 't2', 't3', and 1 more$"
    with pytest.raises(InputError, match=missing):
        match_truth(
            np.array(["t0"]), np.array([math.pi]), truth_ids, members, truth=Path("t.csv"), source=Path("run/s.csv")
        )
    with pytest.raises(InputError, match=r"^t\.csv: has no non-member \(0\) among 5 ids"):
        match_truth(truth_ids, np.zeros(5), truth_ids, np.ones(5, bool), truth=Path("t.csv"))
    with pytest.raises(InputError, match=r"truth: has no member \(1\) among 5 ids"):
        match_truth(truth_ids, np.zeros(5), truth_ids, np.zeros(5, bool))


@pytest.mark.parametrize(("highest", "warned"), [(5, False), (6, True), (100, True)])
def test_scores_tied_at_the_top_are_warned_of_where_they_reach_5_percent_fpr(highest: int, warned: bool):
    scores = np.where(np.arange(100) < highest, 0.75, 0.01)
    rows = "".join(f"s{place},{score}\n" for place, score in enumerate(scores))
    warning = warn_of_ties(Submission("s.csv", f"id,score\n{rows}".encode()))
    assert (warning is not None) == warned
    members = np.arange(100) % 2 == 0  # three of the fifty non-members are among the six highest
    assert (tpr_at_fpr(scores, members, 0.05) == 0) == warned
    assert not warned or f"{highest} of 100 scores are 0.75, the highest" in (warning or "")
