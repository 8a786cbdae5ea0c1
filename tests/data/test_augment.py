import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.config import Augment
from jaxmia.data.augment import apply_view, gather_augmented
from jaxmia.data.views import DIHEDRAL, View, query_views, views

NUMPY = {
    "identity": lambda image: image,
    "hflip": np.fliplr,
    "vflip": np.flipud,
    "rot180": lambda image: np.rot90(image, 2),
    "transpose": lambda image: image.swapaxes(0, 1),
    "rot90": lambda image: np.rot90(image, 1),
    "rot270": lambda image: np.rot90(image, 3),
    "antitranspose": lambda image: np.rot90(image, 2).swapaxes(0, 1),
}
"""Each symmetry of one image `[height, width, channel]`; np.rot90 turns counter-clockwise."""


def look(images: np.ndarray, view: View) -> np.ndarray:
    return np.asarray(apply_view(jnp.asarray(images), view))


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved pixel by pixel onto black."""
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row + down < height and 0 <= column + right < width:
            result[row + down, column + right] = image[row, column]
    return result


def distinct(samples: int, height: int, width: int, channels: int = 2, dtype: type = np.float32) -> np.ndarray:
    """Images without a black pixel and without symmetry."""
    rng = np.random.default_rng(0)
    return rng.integers(1, 255, (samples, height, width, channels)).astype(dtype)


def test_the_eight_symmetries_are_numpys():
    images = distinct(3, 5, 5)
    assert set(NUMPY) == set(DIHEDRAL)
    for name in DIHEDRAL:
        seen = look(images, View(name))
        for image, view in zip(images, seen, strict=True):
            np.testing.assert_array_equal(view, NUMPY[name](image), err_msg=name)


def test_a_view_turns_first_and_then_moves():
    images = distinct(2, 5, 5, dtype=np.uint8)
    for view in (View("identity", 1, 0), View("rot90", -2, 1), View("hflip", 0, -3), View("antitranspose", 4, -4)):
        seen = look(images, view)
        assert seen.dtype == np.uint8
        for image, other in zip(images, seen, strict=True):
            np.testing.assert_array_equal(other, moved(NUMPY[view.symmetry](image), view.down, view.right))


def test_images_need_not_be_square_for_symmetries_that_keep_the_shape():
    image = distinct(1, 3, 6)
    for name in ("identity", "hflip", "vflip", "rot180"):
        seen = look(image, View(name, 1, -1))[0]
        np.testing.assert_array_equal(seen, moved(NUMPY[name](image[0]), 1, -1))


def test_views_begin_with_the_plain_symmetries_and_then_move_each():
    assert views(("identity", "hflip")) == (View("identity"), View("hflip"))
    many = views(("identity", "hflip"), shift=2)
    assert many[:2] == (View("identity"), View("hflip"))
    assert set(many) == {
        View(name, down, right) for name in ("identity", "hflip") for down in (-2, 0, 2) for right in (-2, 0, 2)
    }
    assert len(many) == 18
    assert [str(view) for view in (many[0], View("rot90", -2, 0))] == ["identity", "rot90-2+0"]


GATHER = jax.jit(gather_augmented, static_argnames=("crop", "flip", "dihedral"))


def gather(images: np.ndarray, index: np.ndarray, seed: int = 0, **options) -> np.ndarray:
    changes = {"crop": 0, "flip": False, "dihedral": False, **options}
    return np.asarray(GATHER(jax.random.key(seed), jnp.asarray(images), jnp.asarray(index), **changes))


@pytest.mark.parametrize(
    ("augment", "shape", "expected"),
    [
        (Augment(), (32, 32), views(("identity",))),
        (Augment(flip=True), (32, 32), views(("identity", "hflip"))),
        (Augment(crop=4), (32, 32), views(("identity",), 1)),
        (Augment(crop=4, flip=True), (28, 32), views(("identity", "hflip"), 1)),
        (Augment(crop=4, dihedral=True), (32, 32), views(DIHEDRAL)),
        (Augment(crop=4, flip=True), (1, 446), views(("identity",))),
        (Augment(flip=True), (446, 1), views(("identity",))),
    ],
)
def test_automatic_views_are_those_of_the_augmentation_and_none_for_features(augment, shape, expected):
    assert query_views(("auto",), "auto", augment, shape) == expected


def test_views_that_are_named_are_taken_as_they_are():
    crop = Augment(crop=4, flip=True)
    assert query_views(("identity", "vflip"), "auto", crop, (8, 8)) == views(("identity", "vflip"))
    assert query_views(("identity", "vflip"), 2, Augment(), (8, 8)) == views(("identity", "vflip"), 2)
    assert query_views(("auto",), 0, crop, (8, 8)) == views(("identity", "hflip"))
    assert query_views(("auto",), 3, Augment(), (8, 8)) == views(("identity",), 3)


def explanations(seen: np.ndarray, image: np.ndarray, crop: int, symmetries) -> list[tuple[str, int, int]]:
    """Every (symmetry, down, right) that makes `image` into `seen`: moved first, then turned."""
    moves = itertools.product(range(-crop, crop + 1), repeat=2)
    return [
        (name, down, right)
        for down, right in moves
        for name in symmetries
        if np.array_equal(seen, NUMPY[name](moved(image, down, right)))
    ]


@pytest.mark.parametrize(
    ("options", "symmetries"),
    [
        ({"crop": 2}, ("identity",)),
        ({"flip": True}, ("identity", "hflip")),
        ({"crop": 1, "flip": True}, ("identity", "hflip")),
        ({"dihedral": True}, DIHEDRAL),
        ({"crop": 2, "flip": True, "dihedral": True}, DIHEDRAL),
    ],
)
def test_every_sample_is_one_move_and_one_symmetry_of_its_own_image(options: dict, symmetries: tuple[str, ...]):
    """The naive inverse finds exactly one explanation for each, and over a batch each of them occurs."""
    images = distinct(7, 6, 6, dtype=np.uint8)
    index = np.arange(200, dtype=np.int32) % 7
    seen = gather(images, index, **options)
    assert seen.dtype == np.uint8
    crop = options.get("crop", 0)
    found = []
    for image, sample in zip(seen, index, strict=True):
        matches = explanations(image, images[sample], crop, symmetries)
        assert len(matches) == 1
        found += matches
    assert {name for name, _, _ in found} == set(symmetries)
    assert {down for _, down, _ in found} == {right for _, _, right in found} == set(range(-crop, crop + 1))


def test_every_symmetry_and_every_move_is_as_likely():
    """Chi-squared over 8 symmetries x 9 moves, 7,200 draws, below its 99.99 % point."""
    images = distinct(1, 4, 4, channels=1)
    seen = gather(images, np.zeros(7200, np.int32), crop=1, dihedral=True)
    _, counts = np.unique(seen.reshape(7200, -1), axis=0, return_counts=True)
    assert len(counts) == 72
    assert ((counts - 100) ** 2 / 100).sum() < 123


def test_images_that_are_not_square_are_moved_and_flipped():
    images = distinct(4, 3, 6)
    index = np.array([3, 0, 0, 2, 1] * 8, np.int32)
    for image, sample in zip(gather(images, index, crop=1, flip=True), index, strict=True):
        assert len(explanations(image, images[sample], 1, ("identity", "hflip"))) == 1


def test_no_augmentation_reads_the_pool():
    images = distinct(5, 4, 4)
    np.testing.assert_array_equal(gather(images, np.array([4, 0, 4])), images[[4, 0, 4]])


def test_chance_is_the_keys():
    images, index = distinct(1, 6, 6), np.zeros(64, np.int32)
    options = {"crop": 2, "flip": True, "dihedral": True}
    first = gather(images, index, seed=1, **options)
    np.testing.assert_array_equal(first, gather(images, index, seed=1, **options))
    assert (first != gather(images, index, seed=2, **options)).any()
    assert len(np.unique(first.reshape(64, -1), axis=0)) > 40
