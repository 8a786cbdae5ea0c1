"""Opens what the `challenge` section of a configuration names: the samples, and the target."""

from pathlib import Path

from bridge.challenge import load_challenge
from bridge.target import Target, load_target
from jaxmia.config import ChallengeConfig
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError


def open_pool(challenge: ChallengeConfig, classes: int | None = None) -> Pool:
    """Reads the samples.

    Args:
        challenge: Names the files, and what they may hold.
        classes: Number of classes, where it is known from the target.

    Raises:
        InputError: A file is not named or not there; or as `load_challenge`.
    """
    return load_challenge(
        named_file(challenge, "public"),
        named_file(challenge, "private"),
        classes=challenge.dataset_classes,
        max_bytes=challenge.max_bytes,
        num_classes=classes,
    )


def open_target(challenge: ChallengeConfig) -> Target:
    """Loads the target, with its preprocessing.

    Raises:
        InputError: The file is not named or not there; or as `load_target`.
    """
    return load_target(
        named_file(challenge, "target"),
        challenge.architecture,
        backend=challenge.backend,
        image_size=challenge.image_size,
        mean=challenge.mean,
        std=challenge.std,
        classes=challenge.classes,
        max_bytes=challenge.max_bytes,
    )


def named_file(challenge: ChallengeConfig, field: str) -> Path:
    """The file that a field of the section names.

    Raises:
        InputError: The field is empty, or there is no such file.
    """
    path = getattr(challenge, field)
    if path is None:
        raise InputError(f"challenge.{field}: no file is named; set it in --config or by --challenge.{field} FILE")
    if not path.is_file():
        raise InputError(f"{path}: no such file (challenge.{field})")
    return path
