import pytest

from jaxmia.report.page import _fill_rows
from jaxmia.report.section import Section


@pytest.mark.parametrize(
    ("before", "after"),
    [("WnnW", "WnnW"), ("WnW", "WWW"), ("nnn", "nnW"), ("nWnnn", "WWnnW"), ("W", "W"), ("n", "W"), ("", "")],
)
def test_no_narrow_section_stands_beside_nothing(before: str, after: str):
    sections = _fill_rows([Section(letter, wide=letter == "W") for letter in before])
    assert "".join("W" if section.wide else "n" for section in sections) == after
