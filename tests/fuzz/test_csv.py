from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmia.leaderboard.submission import match_truth, read_scores_csv, read_truth, validate_submission
from tests.fuzz.conftest import fuzzing, read_or_refuse
from tests.fuzz.mutation import mutated

SCORES = b"id,score\n1,0.5\n2,1\n3,0\n4,1e-3\n"
TRUTH = b"id,membership\n1,1\n2,0\n3,1\n4,0\n"
TOKENS = (
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"1\n",
    b"#",
)

CELLS = st.one_of(
    st.sampled_from(
        [
            "id",
            "score",
            "membership",
            "1",
            "2",
            "0.5",
            "nan",
            "-0",
            "1e400",
            "",
            " 1",
            "01",
            '"',
            "\N{ARABIC-INDIC DIGIT ONE}",
        ]
    ),
    st.text(max_size=5),
    st.floats().map(str),
)
TABLES = (
    st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=8)
    .map("\n".join)
    .map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@pytest.mark.parametrize(("read", "valid"), [(read_scores_csv, SCORES), (read_truth, TRUTH)])
def test_any_table_is_read_or_refused(folder: Path, read, valid: bytes):
    path = folder / "table.csv"

    @fuzzing
    @given(st.one_of(mutated(valid, TOKENS), TABLES, st.binary(max_size=100)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(lambda: read(path), path)

    path.write_bytes(valid)
    assert read_or_refuse(lambda: read(path), path)
    check()


def test_what_is_called_valid_reads_back_as_every_id_once_in_0_to_1(folder: Path):
    path, ids = folder / "submission.csv", ["1", "2", "3", "4"]

    @fuzzing
    @given(st.one_of(mutated(SCORES, TOKENS), TABLES, st.permutations(ids).map(_rows)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        broken = validate_submission(path, ids)
        assert all(line.isprintable() for line in broken)
        if not broken:
            names, scores = read_scores_csv(path)
            assert sorted(names) == ids
            assert ((scores >= 0) & (scores <= 1)).all()

    check()


def test_scores_and_truth_of_any_ids_are_matched_or_refused(folder: Path):
    scores, truth = folder / "s.csv", folder / "t.csv"

    @fuzzing
    @given(mutated(SCORES, TOKENS), mutated(TRUTH, TOKENS))
    def check(some: bytes, others: bytes) -> None:
        scores.write_bytes(some)
        truth.write_bytes(others)

        def match() -> None:
            found, members = match_truth(*read_scores_csv(scores), *read_truth(truth))
            assert found.shape == members.shape

        read_or_refuse(match)

    check()


def _rows(ids: list[str]) -> bytes:
    return "\n".join(["id,score", *(f"{name},0.25" for name in ids)]).encode()
