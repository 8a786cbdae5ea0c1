"""Samples in `.npz` files: `images`, `features` or `tokens`, with `ids`, `labels` and `membership`."""

from pathlib import Path

import numpy as np

from bridge.fields import check_lengths, ids_of, labels_of, membership_of
from jaxmia.data.kinds import TOKEN_TYPE
from jaxmia.data.pool import ROUNDING, UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz

KINDS = ("images", "features", "tokens")
_FEATURE_TYPES = ("bool", "uint8", "float16", "float32", "float64")
"""Types in which features are kept; features of other types become floats."""
_EXACT_IN_FLOAT32 = 2**24


def load_arrays(path: Path, *, known: bool, max_bytes: int, num_classes: int | None) -> Pool:
    """Reads the samples of an `.npz`.

    Args:
        path: Path of the file.
        known: Whether the file must contain memberships; otherwise they are never read.
        max_bytes: Largest size of the file and of its arrays in memory.
        num_classes: Number of classes, if known.

    Raises:
        InputError: The file cannot be read safely, or an array is missing or has invalid content.
    """
    required = ("ids", "labels", "membership") if known else ("ids", "labels")
    arrays = load_npz(path, required, only=(*KINDS, *required), max_bytes=max_bytes)
    found = [name for name in KINDS if name in arrays]
    if len(found) != 1:
        raise InputError(f"{path}: holds {' and '.join(found) or 'no samples'}, expected one of {', '.join(KINDS)}")
    check = {"images": _images, "features": _features, "tokens": _tokens}[found[0]]
    samples = check(path, arrays.pop(found[0]))
    for name, array in arrays.items():
        if array.ndim != 1:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected [sample]")
    check_lengths(path, **{found[0]: samples}, **arrays)

    def named(name: str) -> list:
        return [value.item() if value.dtype.kind != "S" else value.decode("ascii", "replace") for value in arrays[name]]

    return Pool(
        samples,
        labels_of(path, named("labels"), num_classes, lambda index: f"labels[{index}]"),
        ids_of(path, named("ids"), lambda index: f"ids[{index}]"),
        membership_of(path, named("membership"), lambda index: f"membership[{index}]")
        if known
        else np.full(len(samples), UNKNOWN, np.int8),
    )


def save_arrays(pool: Pool, path: Path) -> None:
    """Writes a pool as an `.npz` that `load_arrays` reads back to the same numbers."""
    samples = pool.images_to("save")
    name = "images" if samples.ndim == 4 else "tokens" if samples.dtype == TOKEN_TYPE else "features"
    arrays = {name: samples, "labels": pool.labels, "ids": pool.ids}
    save_npz(path, arrays | ({"membership": pool.membership} if pool.public.all() else {}))


def check_pixels(path: Path, name: str, images: np.ndarray) -> None:
    """Checks that the pixels of images are between 0 and 1, apart from rounding.

    Raises:
        InputError: A pixel is outside; the message names it and its image.
    """
    for index, image in enumerate(images):
        outside = image[~((image >= -ROUNDING) & (image <= 1 + ROUNDING))]
        if outside.size:
            raise InputError(
                f"{path}: {name}[{index}] has a pixel of {outside[0]}, allowed are 0 to 1 (0 to 255 as uint8)"
            )


def _images(path: Path, images: np.ndarray) -> np.ndarray:
    if images.ndim and not len(images):
        raise InputError(f"{path}: images: there are none")
    if images.ndim == 3:
        raise InputError(
            f"{path}: images have shape {images.shape}, expected [sample, height, width, channel]; write grey ones as "
            "images[..., None]"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise InputError(
            f"{path}: images have shape {images.shape}, expected [sample, height, width, channel] with 1 or 3 channels"
        )
    if images.dtype.name not in ("uint8", "float32", "float64"):
        raise InputError(f"{path}: images are {images.dtype}, allowed are uint8, float32, float64")
    if images.dtype != np.uint8:
        check_pixels(path, "images", images)
    return images


def _features(path: Path, features: np.ndarray) -> np.ndarray:
    _check_rows(path, "features", features)
    if features.dtype.kind not in "biuf" or features.dtype.name == "float128":
        raise InputError(f"{path}: features are {features.dtype}, expected numbers")
    finite = np.isfinite(features).all(0)
    if not finite.all():
        columns = np.flatnonzero(~finite)
        first = int(np.flatnonzero(~np.isfinite(features[:, columns[0]]))[0])
        raise InputError(
            f"{path}: features: {len(columns)} of {features.shape[1]} columns lack values, first column {columns[0]} "
            f"({features[first, columns[0]]} in row {first}); fill them in or leave the columns out"
        )
    if features.dtype.name in _FEATURE_TYPES:
        return features
    exact = np.abs(features).max() <= _EXACT_IN_FLOAT32
    return features.astype(np.float32 if exact else np.float64)


def _tokens(path: Path, tokens: np.ndarray) -> np.ndarray:
    _check_rows(path, "tokens", tokens)
    if tokens.dtype.kind not in "iu":
        raise InputError(f"{path}: tokens are {tokens.dtype}, expected integers")
    strange = tokens[(tokens < 0) | (tokens > np.iinfo(TOKEN_TYPE).max)]
    if strange.size:
        raise InputError(f"{path}: tokens hold {strange[0]}, allowed are integers from 0")
    return tokens.astype(TOKEN_TYPE)


def _check_rows(path: Path, name: str, rows: np.ndarray) -> None:
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{path}: {name} have shape {rows.shape}, expected [sample, {name[:-1]}]")
