import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmia.models.native import build
from jaxmia.models.native.convolution import Window, forward, input_gradient, kernel_gradient

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
paddings = st.tuples(pair, pair)


def taps(inputs: np.ndarray, window: Window, tall: int, wide: int, rows: int, columns: int):
    """Every tap with the padded inputs that it meets, as a view that may be added to."""
    (down, across), padding = window
    padded = np.pad(inputs, ((0, 0), (0, 0), *padding, (0, 0)))
    met = {
        (i, j): padded[:, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across]
        for i in range(tall)
        for j in range(wide)
    }
    return padded, met


def by_definition(inputs, kernels, cotangents, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs, input gradients and kernel gradients in float64, a tap at a time."""
    inputs, kernels, cotangents = (np.asarray(value, np.float64) for value in (inputs, kernels, cotangents))
    tall, wide, (rows, columns) = *kernels.shape[1:3], cotangents.shape[2:4]
    _, met = taps(inputs, window, tall, wide, rows, columns)
    outputs = sum(np.einsum("mnhwc,mcd->mnhwd", met[i, j], kernels[:, i, j]) for i, j in met)
    kernel_slopes = np.zeros_like(kernels)
    padded, reached = taps(np.zeros_like(inputs), window, tall, wide, rows, columns)
    for i, j in met:
        kernel_slopes[:, i, j] = np.einsum("mnhwc,mnhwd->mcd", met[i, j], cotangents)
        reached[i, j][...] += np.einsum("mnhwd,mcd->mnhwc", cotangents, kernels[:, i, j])
    ((top, _), (left, _)), (height, width) = window[1], inputs.shape[2:4]
    return np.asarray(outputs), padded[:, :, top : top + height, left : left + width], kernel_slopes


def check(inputs_shape, kernels_shape, window: Window, dtype, rounding: float = 2.0**-18) -> None:
    """Compares the three kernels with float64 on operands of `dtype`, allowing for the rounding of sums and results."""
    random = np.random.default_rng(0)
    inputs, kernels = (random.normal(size=shape).astype(dtype) for shape in (inputs_shape, kernels_shape))
    outputs = jax.eval_shape(functools.partial(forward, window=window), inputs, kernels)
    cotangents = random.normal(size=outputs.shape).astype(dtype)

    @jax.jit
    def all_three(inputs, kernels, cotangents):
        return (
            forward(inputs, kernels, window),
            input_gradient(cotangents, kernels, window, inputs_shape[2:4]),
            kernel_gradient(inputs, cotangents, window, kernels_shape[1:3]),
        )

    found = jax.device_get(all_three(inputs, kernels, cotangents))
    last_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-20
    names = ("outputs", "input gradients", "kernel gradients")
    for name, ours, exact in zip(names, found, by_definition(inputs, kernels, cotangents, window), strict=True):
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
    check((2, 67, 9, 8, channels), (2, 3, 2, channels, features), ((1, 2), ((1, 1), (0, 1))), dtype)


@pytest.mark.parametrize("size", [1, 2])
def test_an_image_that_is_smaller_than_the_kernel_leaves_no_pixels(size: int):
    check((2, 4, size, size, 3), (2, 3, 3, 3, 8), ((1, 1), ((0, 0), (0, 0))), jnp.float32)


def test_sums_over_no_samples_and_no_channels_are_zero():
    window = (1, 1), ((1, 1), (1, 1))
    check((2, 0, 4, 4, 3), (2, 3, 3, 3, 8), window, jnp.float32)
    check((2, 4, 4, 4, 0), (2, 3, 3, 0, 8), window, jnp.float32)


@each_type
def test_random_shapes_strides_and_paddings(dtype):
    @given(
        models=st.integers(1, 2),
        samples=st.integers(1, 5),
        size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        padding=paddings,
        channels=st.integers(1, 5),
        features=st.integers(1, 35),
    )
    @settings(max_examples=40)
    def on(models, samples, size, kernel, strides, padding, channels, features) -> None:
        height, width = (max(length, tap - sum(pad)) for length, tap, pad in zip(size, kernel, padding, strict=True))
        check(
            (models, samples, height, width, channels), (models, *kernel, channels, features), (strides, padding), dtype
        )

    on()


@each_type
def test_minimal_filtering_of_random_images_and_paddings(dtype):
    """Three by three taps, stride one, and enough samples and channels for minimal filtering to be the faster way."""

    @given(
        models=st.integers(1, 2),
        samples=st.integers(8, 12),
        size=st.tuples(st.integers(8, 21), st.integers(8, 21)),
        padding=paddings,
        channels=st.integers(24, 70),
        features=st.integers(24, 70),
    )
    @settings(max_examples=12)
    def on(models, samples, size, padding, channels, features) -> None:
        check((models, samples, *size, channels), (models, 3, 3, channels, features), ((1, 1), padding), dtype)

    on()


def test_minimal_filtering_of_so_many_channels_that_it_pays_in_bfloat16():
    check((2, 40, 8, 8, 130), (2, 3, 3, 130, 150), ((1, 1), ((1, 1), (1, 1))), jnp.bfloat16)


def test_minimal_filtering_in_several_blocks_of_features():
    """Of sums of 4,500 products, twice as much rounding is allowed as elsewhere."""
    check((1, 32, 8, 8, 500), (1, 3, 3, 500, 250), ((1, 1), ((1, 1), (1, 1))), jnp.float32, rounding=2.0**-17)


def test_without_the_instruction_bfloat16_is_computed_as_float32(monkeypatch):
    monkeypatch.setattr(build, "multiplies_bfloat16", lambda: False)
    check((1, 3, 5, 5, 3), (1, 3, 3, 3, 4), ((1, 1), ((1, 1), (1, 1))), jnp.bfloat16)
