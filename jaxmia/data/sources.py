"""The files that the section `challenge` of a configuration names."""

from collections.abc import Collection
from pathlib import Path

from jaxmia.config import ChallengeConfig
from jaxmia.errors import InputError

FIELDS = ("public", "private", "target")


def named_file(challenge: ChallengeConfig, field: str) -> Path:
    """Returns the file named by a field of the section.

    Raises:
        InputError: The field is not set, or the file does not exist.
    """
    path = getattr(challenge, field)
    if path is None:
        raise InputError(
            f"challenge.{field}: not set; give the file in --config (jaxmia init writes one) or with "
            f"--challenge.{field} FILE"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file (challenge.{field})")
    return path


def check_files(challenge: ChallengeConfig, required: Collection[str] = FIELDS) -> None:
    """Checks that the files of the section exist, without opening any.

    Args:
        challenge: Section with the files.
        required: Fields that must be set; the files of others must exist if they are set.

    Raises:
        InputError: A required field is not set, or a file does not exist.
    """
    for field in FIELDS:
        if field in required or getattr(challenge, field) is not None:
            named_file(challenge, field)
