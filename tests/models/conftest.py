import pytest


@pytest.fixture(autouse=True)
def nothing_is_promoted_unasked(strict_promotion: None) -> None:
    """Holds for every test here."""
