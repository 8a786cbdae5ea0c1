import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.config import Augment
from jaxmia.data.kinds import FEATURES, IMAGES, TOKENS, as_floats, as_stored, kind_of
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), IMAGES),
        (np.zeros((2, 1, 7, 1), np.float32), IMAGES),
        (ROWS, FEATURES),
        (np.zeros((2, 3), np.uint8), FEATURES),
        (np.zeros((2, 3), bool), FEATURES),
        (np.zeros((2, 3), np.int32), TOKENS),
    ],
)
def test_an_array_tells_its_kind(samples: np.ndarray, kind: object):
    assert kind_of(samples) is kind
    assert kind_of(jnp.asarray(samples)) is kind


def test_rows_are_gathered_as_they_are_and_have_one_view():
    index = jnp.array([3, 0, 3])
    for rows in (ROWS, np.arange(15, dtype=np.int32).reshape(5, 3)):
        kind = kind_of(rows)
        batch = kind.batch(jax.random.key(0), jnp.asarray(rows), index, Augment())
        np.testing.assert_array_equal(batch, rows[[3, 0, 3]])
        np.testing.assert_array_equal(kind.view(batch, View()), batch)
        assert kind.query_views(["auto"], "auto", Augment(), (3,)) == (View(),)
        assert kind.query_views(["identity"], 0, Augment(), (3,)) == (View(),)


@pytest.mark.parametrize("kind", [FEATURES, TOKENS])
def test_what_only_images_have_is_refused(kind):
    with pytest.raises(InputError, match=rf"query\.views: hflip: {kind.name} have no symmetries, allowed are auto and"):
        kind.query_views(["identity", "hflip"], 0, Augment(), (3,))
    with pytest.raises(InputError, match=rf"query\.shift: 1: {kind.name} cannot be shifted, allowed are auto and 0"):
        kind.query_views(["identity"], 1, Augment(), (3,))
    with pytest.raises(
        InputError, match=rf"shadow\.augment: {kind.name} cannot be augmented; leave out crop, flip and"
    ):
        kind.check_augment(Augment(flip=True), (3,))


def test_a_crop_that_may_leave_nothing_of_an_image_is_refused():
    IMAGES.check_augment(Augment(crop=7), (6, 8, 1))
    with pytest.raises(InputError, match=r"^shadow\.augment: crop: 8 must be less than the side .* are 6 x 8$"):
        IMAGES.check_augment(Augment(crop=8), (6, 8, 1))


def test_features_are_normalised_by_column_and_not_at_all_by_default():
    given = Preprocessing(mean=(1.0, 2.0, 3.0), std=(0.5, 1.0, 2.0))
    expected = (ROWS - np.float32([1, 2, 3])) / np.float32([0.5, 1, 2])
    np.testing.assert_allclose(given.normalised(jnp.asarray(ROWS), jnp.dtype("float32")), expected, rtol=1e-6)
    np.testing.assert_array_equal(Preprocessing()(jnp.asarray(ROWS)), ROWS)
    levels = np.array([[0, 255, 7]], np.uint8)
    np.testing.assert_array_equal(Preprocessing()(jnp.asarray(levels)), [[0, 255, 7]])


def test_token_ids_stay_ids_in_half_precision():
    ids = jnp.array([[0, 257, 2**24 + 1]], jnp.int32)
    found = Preprocessing().normalised(ids, jnp.dtype("bfloat16"))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize(
    ("preprocessing", "samples", "message"),
    [
        (Preprocessing(mean=(1, 2)), ROWS, r"mean has 2 values, allowed are 1 or one for each of 3 features"),
        (Preprocessing(std=(1, 2)), np.zeros((1, 4, 4, 3)), r"std has 2 values, .* one for each of 3 channels"),
        (Preprocessing(size=8), ROWS, r"image_size: rows of features cannot be resized, leave it out"),
        (Preprocessing(std=(2,)), ROWS.astype(np.int32), r"std: sequences of token ids are not normalised, leave it"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(preprocessing: Preprocessing, samples: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        preprocessing.check(samples)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "image_size: 0 must be greater than or equal to 1"),
        ({"size": 2.5}, "image_size: 2.5 must be a valid integer"),
        ({"mean": ()}, r"mean: \(\) must not be empty"),
        ({"mean": "grey"}, "mean.0: 'grey' must be a valid number"),
        ({"mean": (np.nan,)}, "mean.0: nan must be a finite number"),
        ({"mean": True}, "mean: True must not be true or false"),
        ({"std": (0.5, 0.0)}, "std.1: 0.0 must be greater than 0"),
        ({"std": (-1,)}, "std.0: -1 must be greater than 0"),
        ({"std": np.array([0.0])}, "std.0: .*0.0.* must be greater than 0"),
    ],
)
def test_preprocessing_is_held_to_the_rules_of_the_configuration(fields: dict, message: str):
    with pytest.raises(InputError, match=rf"^preprocessing: {message}[^\n]*$"):
        Preprocessing(**fields)


def test_means_may_be_lists_arrays_or_one_number():
    expected = Preprocessing(mean=(0.5, 0.25), std=(0.5,))
    assert Preprocessing(mean=[0.5, 0.25], std=0.5) == expected  # type: ignore[arg-type]
    assert Preprocessing(mean=np.array([0.5, 0.25]), std=np.array([0.5])) == expected  # type: ignore[arg-type]
    assert hash(Preprocessing(mean=[0.5, 0.25], std=0.5)) == hash(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_are_stored_as_levels_where_that_is_exact(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    kept = as_stored(as_floats(levels).astype(dtype))
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept, levels)
    other = as_floats(levels).astype(dtype)
    other[3, 7, 7, 0] = 0.123
    kept = as_stored(other)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, other.astype(np.float32))


def test_features_are_never_taken_for_levels():
    binary = np.array([[0, 1], [1, 0]], np.float32)
    assert as_stored(binary) is binary
    assert as_stored(binary.astype(np.float64)).dtype == np.float32
