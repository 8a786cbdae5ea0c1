import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmia.models.native import build
from jaxmia.models.native.convolution import Window
from jaxmia.models.native.depthwise import Dilation, forward, input_gradient, kernel_gradient

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
pair = st.tuples(st.integers(-1, 3), st.integers(-1, 3))
PART = ("outputs", "input gradients", "kernel gradients")


def by_definition(inputs, kernels, cotangents, window: Window, dilation: Dilation) -> tuple[np.ndarray, ...]:
    """Outputs, input gradients and kernel gradients in float64, an output pixel and a tap at a time."""
    inputs, kernels, cotangents = (np.asarray(value, np.float64) for value in (inputs, kernels, cotangents))
    (down, across), ((top, _), (left, _)) = window
    outputs, slopes, kernel_slopes = np.zeros_like(cotangents), np.zeros_like(inputs), np.zeros_like(kernels)
    for y, x, i, j in np.ndindex(*cotangents.shape[2:4], *kernels.shape[1:3]):
        row, column = y * down + i * dilation[0] - top, x * across + j * dilation[1] - left
        if 0 <= row < inputs.shape[2] and 0 <= column < inputs.shape[3]:
            pixels, given_, weights = inputs[:, :, row, column], cotangents[:, :, y, x], kernels[:, None, i, j, 0]
            outputs[:, :, y, x] += pixels * weights
            slopes[:, :, row, column] += given_ * weights
            kernel_slopes[:, i, j, 0] += (pixels * given_).sum(1)
    return outputs, slopes, kernel_slopes


def computed(inputs, kernels, window: Window, dilation: Dilation, threads: int = 1):
    """Cotangents, and the three parts by the kernels."""
    shape = jax.eval_shape(functools.partial(forward, window=window, dilation=dilation), inputs, kernels).shape
    cotangents = np.random.default_rng(1).normal(size=shape).astype(inputs.dtype)

    @jax.jit
    def parts(inputs, kernels, cotangents):
        return (
            forward(inputs, kernels, window, dilation, threads),
            input_gradient(cotangents, kernels, window, inputs.shape[2:4], dilation, threads),
            kernel_gradient(inputs, cotangents, window, kernels.shape[1:3], dilation, threads),
        )

    return cotangents, jax.device_get(parts(inputs, kernels, cotangents))


def operands(inputs_shape, taps: tuple[int, int], dtype) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = inputs_shape, (inputs_shape[0], *taps, 1, inputs_shape[-1])
    return tuple(random.normal(size=shape).astype(dtype) for shape in shapes)  # type: ignore[return-value]


def check(inputs_shape, taps, window: Window, dilation: Dilation, dtype) -> None:
    """Compares the three parts with float64 on operands of `dtype`, allowing for the rounding of sums and results."""
    inputs, kernels = operands(inputs_shape, taps, dtype)
    cotangents, found = computed(inputs, kernels, window, dilation)
    last_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-20
    expected = by_definition(inputs, kernels, cotangents, window, dilation)
    for name, ours, exact in zip(PART, found, expected, strict=True):
        assert ours.dtype == dtype, name
        assert ours.shape == exact.shape, name
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), exact, rtol=last_bit, atol=2.0**-18 * scale, err_msg=name
        )


@each_type
@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 17, 24, 33, 36, 64])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_every_number_of_channels(strides: tuple[int, int], channels: int, dtype):
    check((2, 19, 9, 10, channels), (3, 3), (strides, ((1, 1), (1, 1))), (1, 1), dtype)


@each_type
def test_random_shapes_strides_paddings_and_dilations(dtype):
    @given(
        models=st.integers(1, 2),
        samples=st.integers(1, 20),
        size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
        kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        padding=st.tuples(pair, pair),
        dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        channels=st.integers(1, 40),
    )
    @settings(max_examples=80)
    def on(models, samples, size, kernel, strides, padding, dilation, channels) -> None:
        height, width = (
            max(length, gap * (tap - 1) + 1 - sum(pad), 1)
            for length, tap, gap, pad in zip(size, kernel, dilation, padding, strict=True)
        )
        check((models, samples, height, width, channels), kernel, (strides, padding), dilation, dtype)

    on()


@pytest.mark.parametrize(
    ("inputs_shape", "taps"),
    [((2, 0, 4, 4, 3), (3, 3)), ((2, 4, 4, 4, 0), (3, 3)), ((2, 4, 2, 2, 3), (3, 3)), ((0, 4, 4, 4, 3), (3, 3))],
    ids=["no samples", "no channels", "no outputs", "no models"],
)
def test_sums_over_nothing_are_zero(inputs_shape, taps):
    check(inputs_shape, taps, ((1, 1), ((0, 0), (0, 0))), (1, 1), jnp.float32)


@each_type
def test_a_diverged_model_does_not_reach_the_others(dtype):
    """One thread computes all models, in the same working memory."""
    inputs, kernels = operands((3, 5, 7, 7, 5), (3, 3), dtype)
    window = (2, 1), ((1, 1), (1, 1))
    _, before = computed(inputs, kernels, window, (1, 1))
    inputs[0], kernels[0] = np.nan, np.inf
    _, after = computed(inputs, kernels, window, (1, 1))
    for name, ours, expected in zip(PART, after, before, strict=True):
        np.testing.assert_array_equal(ours[1:], expected[1:], err_msg=name)
        assert not np.isfinite(ours[0].astype(np.float32)).all(), name


@pytest.mark.parametrize("threads", [2, 3])
@each_type
def test_results_are_the_same_with_any_number_of_threads(threads: int, dtype):
    """On shapes that have enough work for all threads."""

    @given(
        models=st.integers(1, 2),
        samples=st.integers(100, 120),
        kernel=st.tuples(st.integers(4, 5), st.integers(4, 5)),
        strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        channels=st.integers(40, 70),
    )
    @example(models=1, samples=100, kernel=(7, 7), strides=(1, 1), channels=17)
    @settings(max_examples=5)
    def on(models, samples, kernel, strides, channels) -> None:
        given_ = operands((models, samples, 16, 15, channels), kernel, dtype)
        window = strides, ((2, 2), (2, 2))
        _, one = computed(*given_, window, (1, 1))
        _, several = computed(*given_, window, (1, 1), threads)
        for name, ours, expected in zip(PART, several, one, strict=True):
            np.testing.assert_array_equal(ours, expected, err_msg=name)

    on()


def test_without_the_instruction_bfloat16_is_computed_as_float32(monkeypatch):
    monkeypatch.setattr(build, "multiplies_bfloat16", lambda: False)
    check((1, 3, 5, 5, 3), (3, 3), ((1, 1), ((1, 1), (1, 1))), (1, 1), jnp.bfloat16)
