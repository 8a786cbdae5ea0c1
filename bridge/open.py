"""Opens the samples and the target named in the `challenge` section of a configuration."""

from bridge.challenge import categories_of, load_challenge, load_split
from bridge.target import Target, load_target
from jaxmia.config import ChallengeConfig
from jaxmia.data.pool import Pool
from jaxmia.data.scaling import standardised
from jaxmia.data.sources import named_file


def open_pool(
    challenge: ChallengeConfig, classes: int | None = None, *, scaled_as: ChallengeConfig | None = None
) -> Pool:
    """Loads the public and private samples.

    Args:
        challenge: Section with the files and the classes that they may contain.
        classes: Number of classes, if known from the target.
        scaled_as: Section with the samples whose statistics scale the features (`challenge.scaling: pool`); by default
            the same.

    Raises:
        InputError: A file is not configured or does not exist, or `load_challenge` rejects it.
    """
    pool = _read_pool(challenge, classes)
    if challenge.scaling != "pool":
        return pool
    return standardised(pool, _read_pool(scaled_as) if scaled_as else pool)


def _read_pool(challenge: ChallengeConfig, classes: int | None = None) -> Pool:
    return load_challenge(
        named_file(challenge, "public"),
        named_file(challenge, "private"),
        classes=challenge.dataset_classes,
        max_bytes=challenge.max_bytes,
        num_classes=classes,
        one_hot=challenge.one_hot,
    )


def open_public(challenge: ChallengeConfig, classes: int | None = None) -> Pool:
    """Loads the public samples alone.

    Args:
        challenge: Section with the file and the classes that it may contain.
        classes: Number of classes, if known from the target.

    Raises:
        InputError: The file is not configured or does not exist, or `load_split` rejects it.
    """
    path = named_file(challenge, "public")
    pool = load_split(
        path,
        known=True,
        classes=challenge.dataset_classes,
        max_bytes=challenge.max_bytes,
        num_classes=classes,
        categories=categories_of((path,), challenge.one_hot, challenge.max_bytes),
    )
    return standardised(pool) if challenge.scaling == "pool" else pool


def open_target(challenge: ChallengeConfig) -> Target:
    """Loads the target together with its preprocessing.

    Raises:
        InputError: The file is not configured or does not exist, or `load_target` rejects it.
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
