import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmia.models.native import build
from jaxmia.models.native.convolution import Window, forward, input_gradient, kernel_gradient
from tests.kernels import needs_kernels

pytestmark = needs_kernels

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
SAME = Window(padding=((1, 1), (1, 1)))
PARTS = ("outputs", "input gradients", "kernel gradients")


def by_definition(inputs, kernels, cotangents, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs, input gradients and kernel gradients in float64, an output pixel and a tap at a time."""
    (down, across), ((top, _), (left, _)), (gap_down, gap_across), groups = window

    def split(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
        grouped = np.asarray(array, np.float64).reshape(*array.shape[:-1], groups, array.shape[-1] // groups)
        return grouped.transpose(order)

    def joined(array: np.ndarray, order: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        return array.transpose(np.argsort(order)).reshape(shape)

    image, kernel = (2, 3, 0, 4, 1, 5), (1, 2, 0, 4, 3, 5)  # [h, w, model, group, n, c], [i, j, model, group, c, d]
    pixels, weights, given_ = split(inputs, image), split(kernels, kernel), split(cotangents, image)
    outputs, slopes, kernel_slopes = map(np.zeros_like, (given_, pixels, weights))
    for y, x, i, j in np.ndindex(*given_.shape[:2], *weights.shape[:2]):
        row, column = y * down + i * gap_down - top, x * across + j * gap_across - left
        if 0 <= row < len(pixels) and 0 <= column < pixels.shape[1]:
            outputs[y, x] += pixels[row, column] @ weights[i, j]
            slopes[row, column] += given_[y, x] @ weights[i, j].swapaxes(-1, -2)
            kernel_slopes[i, j] += pixels[row, column].swapaxes(-1, -2) @ given_[y, x]
    return (
        joined(outputs, image, cotangents.shape),
        joined(slopes, image, inputs.shape),
        joined(kernel_slopes, kernel, kernels.shape),
    )


def operands(inputs_shape, kernels_shape, dtype) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return tuple(random.normal(size=shape).astype(dtype) for shape in (inputs_shape, kernels_shape))  # type: ignore[return-value]


def computed(inputs, kernels, window: Window) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Cotangents, and the three parts by the kernels."""
    shape = jax.eval_shape(functools.partial(forward, window=window), inputs, kernels).shape
    cotangents = np.random.default_rng(1).normal(size=shape).astype(inputs.dtype)

    @jax.jit
    def parts(inputs, kernels, cotangents):
        return (
            forward(inputs, kernels, window),
            input_gradient(cotangents, kernels, window, inputs.shape[2:4]),
            kernel_gradient(inputs, cotangents, window, kernels.shape[1:3]),
        )

    return cotangents, jax.device_get(parts(inputs, kernels, cotangents))


def check(inputs_shape, kernels_shape, window: Window, dtype, rounding: float = 2.0**-18) -> None:
    """Compares the three parts with float64 on operands of `dtype`, allowing for the rounding of sums and results."""
    inputs, kernels = operands(inputs_shape, kernels_shape, dtype)
    cotangents, found = computed(inputs, kernels, window)
    last_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-20
    expected = by_definition(inputs, kernels, cotangents, window)
    for name, ours, exact in zip(PARTS, found, expected, strict=True):
        assert ours.dtype == dtype, name
        assert ours.shape == exact.shape, name
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), exact, rtol=last_bit, atol=rounding * scale, err_msg=name
        )


@each_type
@pytest.mark.parametrize("features", [1, 15, 16, 17, 40, 64, 100])
@pytest.mark.parametrize("channels", [1, 3, 16, 33])
def test_every_vector_width(channels: int, features: int, dtype):
    """Channel counts around the widths that the kernels work in, several groups of samples, an uneven stride."""
    check((2, 67, 9, 8, channels), (2, 3, 2, channels, features), Window((1, 2), ((1, 1), (0, 1))), dtype)


@each_type
@pytest.mark.parametrize(
    ("inputs_shape", "kernels_shape"),
    [
        ((2, 33, 4, 4, 258), (2, 3, 3, 258, 40)),
        ((1, 70, 4, 4, 80), (1, 3, 3, 80, 512)),
        ((1, 3, 50, 49, 64), (1, 3, 3, 64, 32)),
        ((1, 18, 20, 17, 36), (1, 1, 1, 36, 20)),
    ],
    ids=["several blocks of channels", "sums beyond the cache", "large images", "odd sizes"],
)
def test_what_is_computed_part_by_part(inputs_shape, kernels_shape, dtype):
    taps = kernels_shape[1]
    margin = ((taps // 2, taps // 2),) * 2
    for stride in (1, 2):
        check(inputs_shape, kernels_shape, Window((stride, stride), margin), dtype, rounding=2.0**-17)


@pytest.mark.parametrize("size", [1, 2])
def test_an_image_that_is_smaller_than_the_kernel_leaves_no_pixels(size: int):
    check((2, 4, size, size, 3), (2, 3, 3, 3, 8), Window(), jnp.float32)


def test_sums_over_no_samples_and_no_channels_are_zero():
    check((2, 0, 4, 4, 3), (2, 3, 3, 3, 8), SAME, jnp.float32)
    check((2, 4, 4, 4, 0), (2, 3, 3, 0, 8), SAME, jnp.float32)


@st.composite
def convolutions(draw, groups, channels, features) -> tuple[tuple[int, ...], tuple[int, ...], Window]:
    """Shapes of inputs and kernels, and a window that leaves outputs; channels and features are those of a group."""
    side, step, margin = st.integers(1, 11), st.integers(1, 4), st.integers(-1, 3)
    taps, dilation = draw(st.tuples(*[st.integers(1, 5)] * 2)), draw(st.tuples(*[st.integers(1, 3)] * 2))
    padding = draw(st.tuples(*[st.tuples(margin, margin)] * 2))
    size = (
        max(draw(side), gap * (tap - 1) + 1 - sum(pad), 1)
        for tap, gap, pad in zip(taps, dilation, padding, strict=True)
    )
    window = Window(draw(st.tuples(step, step)), padding, dilation, draw(groups))
    models, samples, channels, features = (draw(count) for count in (st.integers(1, 2), side, channels, features))
    inputs_shape = (models, samples, *size, window.groups * channels)
    return inputs_shape, (models, *taps, channels, window.groups * features), window


@each_type
@pytest.mark.parametrize(
    "given_",
    [
        convolutions(st.just(1), st.integers(1, 5), st.integers(1, 35)),
        convolutions(st.integers(2, 40), st.just(1), st.just(1)),
        convolutions(st.integers(2, 9), st.integers(1, 15), st.integers(1, 15)),
        convolutions(st.integers(2, 3), st.integers(1, 40), st.integers(1, 40)),
    ],
    ids=["one group", "depthwise", "narrow groups", "wide groups"],
)
def test_random_shapes_strides_paddings_dilations_and_groups(given_, dtype):
    @given(given_)
    @settings(max_examples=40)
    def on(convolution) -> None:
        check(*convolution, dtype)

    on()


@each_type
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 17, 24, 33, 36, 64])
def test_every_number_of_depthwise_channels(channels: int, strides: tuple[int, int], dtype):
    check((2, 19, 9, 10, channels), (2, 3, 3, 1, channels), SAME._replace(strides=strides, groups=channels), dtype)


@each_type
@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize(("channels", "features"), [(2, 2), (4, 4), (8, 8), (16, 8), (7, 20), (32, 4), (60, 3)])
def test_every_width_of_groups(channels: int, features: int, groups: int, dtype):
    """Results whose numbers are in one vector or in several, of which some fill vectors together."""
    check((2, 9, 6, 7, groups * channels), (2, 3, 3, channels, groups * features), SAME._replace(groups=groups), dtype)


@each_type
@pytest.mark.parametrize(("channels", "features"), [(4, 4), (8, 8), (16, 8), (5, 7), (16, 16)])
def test_every_width_of_groups_at_single_pixels(channels: int, features: int, dtype):
    check((2, 9, 6, 7, 4 * channels), (2, 1, 1, channels, 4 * features), Window(groups=4), dtype)


@pytest.mark.parametrize(
    ("inputs_shape", "window"),
    [
        ((2, 0, 4, 4, 3), SAME._replace(groups=3)),
        ((2, 4, 2, 2, 3), Window(groups=3)),
        ((0, 4, 4, 4, 3), SAME._replace(groups=3)),
    ],
    ids=["no samples", "no outputs", "no models"],
)
def test_depthwise_sums_over_nothing_are_zero(inputs_shape, window: Window):
    check(inputs_shape, (inputs_shape[0], 3, 3, 1, 3), window, jnp.float32)


@each_type
@pytest.mark.parametrize(("groups", "channels"), [(1, 5), (5, 1), (4, 4), (2, 18)])
def test_a_diverged_model_does_not_reach_the_others(groups: int, channels: int, dtype):
    """One thread computes all models, in the same working memory."""
    window = Window((2, 1), ((1, 1), (1, 1)), groups=groups)
    inputs, kernels = operands((3, 5, 7, 7, groups * channels), (3, 3, 3, channels, groups * channels), dtype)
    _, before = computed(inputs, kernels, window)
    inputs[0], kernels[0] = np.nan, np.inf
    _, after = computed(inputs, kernels, window)
    for name, ours, expected in zip(PARTS, after, before, strict=True):
        np.testing.assert_array_equal(ours[1:], expected[1:], err_msg=name)
        assert not np.isfinite(ours[0].astype(np.float32)).all(), name


@each_type
@pytest.mark.parametrize("taps", [1, 3])
def test_a_sample_that_is_not_finite_does_not_reach_the_others(taps: int, dtype):
    """Images without padding are read to their last word, and 3 x 48 or 50 channels are no whole number of tiles."""
    channels = 48 if taps == 3 else 50
    inputs, kernels = operands((2, 51, 10, 9, channels), (2, taps, taps, channels, 8), dtype)
    outputs = jax.jit(functools.partial(forward, window=Window()))
    before = np.array(outputs(inputs, kernels))
    inputs[0], inputs[1, 5], before[0], before[1, 5] = np.nan, np.inf, 0, 0
    after = np.array(outputs(inputs, kernels))
    assert not np.isfinite(after[0].astype(np.float32)).any()
    after[0], after[1, 5] = 0, 0
    np.testing.assert_array_equal(after, before)


@each_type
def test_minimal_filtering_of_random_images_and_paddings(dtype):
    """Three by three taps, stride one, and enough samples and channels for minimal filtering to be the faster way."""

    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))

    @given(
        models=st.integers(1, 2),
        samples=st.integers(8, 12),
        size=st.tuples(st.integers(8, 21), st.integers(8, 21)),
        padding=st.tuples(pair, pair),
        channels=st.integers(24, 70),
        features=st.integers(24, 70),
        groups=st.integers(1, 2),
    )
    @settings(max_examples=12)
    def on(models, samples, size, padding, channels, features, groups) -> None:
        inputs_shape = (models, samples, *size, groups * channels)
        check(inputs_shape, (models, 3, 3, channels, groups * features), Window(padding=padding, groups=groups), dtype)

    on()


def test_minimal_filtering_of_so_many_channels_that_it_pays_in_bfloat16():
    check((2, 40, 8, 8, 130), (2, 3, 3, 130, 150), SAME, jnp.bfloat16)


def test_minimal_filtering_in_several_blocks_of_features():
    """Of sums of 4,500 products, twice as much rounding is allowed as elsewhere."""
    check((1, 32, 8, 8, 500), (1, 3, 3, 500, 250), SAME, jnp.float32, rounding=2.0**-17)


def test_without_the_instruction_bfloat16_is_computed_as_float32(monkeypatch):
    monkeypatch.setattr(build, "multiplies_bfloat16", lambda: False)
    check((1, 3, 5, 5, 3), (1, 3, 3, 3, 4), SAME, jnp.bfloat16)
    check((1, 3, 5, 5, 6), (1, 3, 3, 2, 6), SAME._replace(groups=3), jnp.bfloat16)
