"""Errors in one line."""

import pytest

from jaxmia.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such size"), "ValueError: no such size"),
        (ValueError(), "ValueError"),
        (ValueError("  \n"), "ValueError"),
        (KeyError("weight"), "KeyError: 'weight'"),
        (RuntimeError("\n  mat1 and mat2\nat line 7"), "RuntimeError: mat1 and mat2"),
        (RuntimeError("\x1b[31mred\u202e"), "RuntimeError: ?[31mred?"),
        (RuntimeError("x" * 600), f"RuntimeError: {'x' * 486}..."),
    ],
)
def test_a_foreign_exception_in_one_line(error: Exception, line: str):
    assert one_line(error) == line
