import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxmia.models.conv import LOWERINGS, Lowering, ensemble_conv
from tests.kernels import needs_kernels

Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]

each_lowering = pytest.mark.parametrize(
    "lowering",
    [pytest.param(name, marks=needs_kernels) if name == "native" else name for name in LOWERINGS],
)

KINDS = {"own": (0, 0), "shared input": (None, 0), "shared kernel": (0, None)}
"""Which operand carries the model axis: every model its own, one image batch for all, one kernel for all."""


@st.composite
def cases(draw) -> Case:
    """Shapes `[model, n, h, w, c]` and `[model, i, j, c, d]`, strides and padding that leave an output."""
    models, batch, channels, features = (draw(st.integers(1, 3)) for _ in range(4))
    taps = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    size = tuple(max(draw(st.integers(1, 6)), tap - sum(pad)) for tap, pad in zip(taps, padding, strict=True))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return (models, batch, *size, channels), (models, *taps, channels, features), strides, padding


def plain(inputs, kernel, strides, padding, **options):
    axes = "DHW"[-len(strides) :]
    layout = f"N{axes}C", f"{axes}IO", f"N{axes}C"
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=layout, **options)


def operands(case: Case, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in case[:2])  # type: ignore[return-value]


def evaluate(conv, case: Case, kind: str, dtype=jnp.float32) -> dict[str, np.ndarray]:
    """Output and both gradients of a weighted sum of it, of all models, as one jitted program."""
    inputs, kernel = operands(case, dtype)
    axes = KINDS[kind]
    given_inputs = inputs if axes[0] == 0 else inputs[0]
    given_kernel = kernel if axes[1] == 0 else kernel[0]
    one = functools.partial(conv, strides=case[2], padding=case[3])
    shape = jax.eval_shape(jax.vmap(one, axes), given_inputs, given_kernel).shape
    weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)

    def model(inputs, kernel, weights):
        output, pull = jax.vjp(one, inputs, kernel)
        return output, *pull(weights)

    results = jax.jit(jax.vmap(model, (*axes, 0)))(given_inputs, given_kernel, weights)
    names = ("output", "input gradient", "kernel gradient")
    return {name: np.asarray(value, np.float64) for name, value in zip(names, results, strict=True)}


@functools.cache
def expected_of(case: Case, kind: str) -> dict[str, np.ndarray]:
    return evaluate(plain, case, kind)


def assert_alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, value in expected.items():
        scale = np.abs(value).max(initial=1)
        np.testing.assert_allclose(found[name], value, atol=tolerance * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@each_lowering
def test_a_lowering_is_plain_vmap(lowering: Lowering, kind: str):
    @given(cases())
    @settings(max_examples=4)
    def check(case: Case) -> None:
        assert_alike(evaluate(ensemble_conv(lowering), case, kind), expected_of(case, kind), 1e-5)

    check()


COMMON: list[Case] = [
    ((3, 2, 8, 8, 4), (3, 3, 3, 4, 5), (1, 1), ((1, 1), (1, 1))),
    ((3, 2, 8, 8, 4), (3, 3, 3, 4, 5), (2, 2), ((1, 1), (1, 1))),
    ((3, 2, 7, 7, 4), (3, 3, 3, 4, 5), (2, 2), ((1, 1), (1, 1))),
    ((3, 2, 8, 8, 4), (3, 1, 1, 4, 5), (2, 2), ((0, 0), (0, 0))),
    ((3, 2, 8, 8, 4), (3, 1, 1, 4, 5), (1, 1), ((0, 0), (0, 0))),
    ((2, 1, 12, 12, 3), (2, 7, 7, 3, 4), (2, 2), ((3, 3), (3, 3))),
]
"""The convolutions of the networks: 3x3 with and without stride, on even and odd sizes, shortcuts, ImageNet's stem."""


@pytest.mark.parametrize("case", COMMON, ids=lambda case: f"{case[1][1]}x{case[1][2]} of {case[0][2]} by {case[2][0]}")
@each_lowering
def test_the_networks_own_convolutions(lowering: Lowering, case: Case):
    assert_alike(evaluate(ensemble_conv(lowering), case, "own"), expected_of(case, "own"), 1e-5)


@each_lowering
def test_bfloat16_stays_bfloat16_and_within_its_rounding(lowering: Lowering):
    """Against the float32 result of the same bfloat16 operands; bfloat16 has 8 bits."""
    case = COMMON[0]
    conv = functools.partial(ensemble_conv(lowering), strides=case[2], padding=case[3])
    for kind, axes in KINDS.items():
        inputs, kernel = operands(case, jnp.bfloat16)
        inputs, kernel = (value if axis == 0 else value[0] for value, axis in zip((inputs, kernel), axes, strict=True))
        assert jax.eval_shape(jax.vmap(conv, axes), inputs, kernel).dtype == jnp.bfloat16
        found = evaluate(ensemble_conv(lowering), case, kind, jnp.bfloat16)
        rounded = evaluate(plain, case, kind, jnp.bfloat16)
        exact_operands = [np.asarray(value, np.float32) for value in operands(case, jnp.bfloat16)]
        assert_alike(found, rounded, 0.02)
        if kind == "own":
            exact = jax.vmap(functools.partial(plain, strides=case[2], padding=case[3]))(*exact_operands)
            np.testing.assert_allclose(found["output"], exact, atol=0.01 * np.abs(exact).max(), rtol=0.01)


@each_lowering
def test_without_vmap_it_is_the_librarys(lowering: Lowering):
    case = COMMON[1]
    inputs, kernel = (value[0] for value in operands(case))
    found = ensemble_conv(lowering)(inputs, kernel, case[2], case[3])
    np.testing.assert_array_equal(found, plain(inputs, kernel, case[2], case[3]))


@each_lowering
def test_named_paddings_and_a_direct_loop(lowering: Lowering):
    """Every output is the sum it is defined as, written out in NumPy float64."""
    inputs, kernel = operands(((2, 1, 5, 6, 2), (2, 3, 2, 2, 3), (2, 1), ((0, 0), (0, 0))))
    many = jax.vmap(lambda x, k: ensemble_conv(lowering)(x, k, (2, 1), "VALID"))(inputs, kernel)
    x, k = np.asarray(inputs, np.float64), np.asarray(kernel, np.float64)
    expected = np.array(
        [
            [
                [
                    [np.sum(x[m, 0, 2 * i : 2 * i + 3, j : j + 2, :, None] * k[m], (0, 1, 2)) for j in range(5)]
                    for i in range(2)
                ]
            ]
            for m in range(2)
        ]
    )
    np.testing.assert_allclose(many, expected, atol=1e-5)
    same = jax.vmap(lambda x, k: ensemble_conv(lowering)(x, k, (2, 1), "SAME"))(inputs, kernel)
    np.testing.assert_allclose(same, jax.vmap(lambda x, k: plain(x, k, (2, 1), "SAME"))(inputs, kernel), atol=1e-5)


@each_lowering
def test_flax_modules_take_it(lowering: Lowering):
    """K `nnx.Conv` modules under vmap against each alone with the library's convolution."""

    def build(key: jax.Array, **options) -> nnx.Conv:
        return nnx.Conv(2, 3, (3, 3), strides=(2, 2), padding=1, rngs=nnx.Rngs(key), **options)

    keys = jax.random.split(jax.random.key(0), 3)
    graph, _ = nnx.split(build(keys[0], conv_general_dilated=ensemble_conv(lowering)))
    states = [nnx.to_pure_dict(nnx.state(build(key))) for key in keys]
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
    images = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    found = jax.vmap(lambda state: nnx.merge(graph, state)(images))(stacked)
    expected = np.stack([build(key)(images) for key in keys])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


GROUPED = {
    "depthwise": (((3, 2, 9, 8, 6), (3, 3, 2, 1, 6), (2, 1), ((1, 1), (0, 2))), 6, (1, 2)),
    "depthwise without outputs": (((3, 2, 2, 2, 6), (3, 3, 3, 1, 6), (2, 2), ((0, 0), (0, 0))), 6, (1, 1)),
    "depthwise, two outputs a channel": (((3, 2, 6, 6, 4), (3, 3, 3, 1, 8), (1, 1), ((1, 1), (1, 1))), 4, (1, 1)),
    "depthwise rows": (((3, 2, 11, 6), (3, 3, 1, 6), (2,), ((1, 2),)), 6, (2,)),
    "depthwise volumes": (((3, 2, 4, 5, 4, 6), (3, 2, 2, 3, 1, 6), (1, 2, 1), ((1, 1), (0, 0), (1, 0))), 6, (1, 1, 1)),
    "groups": (((3, 2, 7, 6, 8), (3, 3, 3, 4, 6), (1, 2), ((1, 1), (1, 1))), 2, (2, 1)),
    "rows": (((3, 2, 9, 4), (3, 3, 4, 5), (2,), ((1, 1),)), 1, (1,)),
    "dilated": (((3, 2, 8, 8, 4), (3, 3, 3, 4, 5), (2, 1), ((2, 2), (1, 3))), 1, (2, 3)),
}
"""Shapes, groups and dilation of convolutions of groups, of rows and volumes, and dilated ones."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROUPED)
@each_lowering
def test_groups_rows_volumes_and_dilation_are_plain_vmap(lowering: Lowering, name: str, kind: str):
    case, groups, dilation = GROUPED[name]
    options = {"feature_group_count": groups, "rhs_dilation": dilation}
    found, expected = (
        evaluate(functools.partial(conv, **options), case, kind) for conv in (ensemble_conv(lowering), plain)
    )
    assert_alike(found, expected, 1e-5)


@each_lowering
def test_depthwise_without_vmap_and_with_named_padding(lowering: Lowering):
    inputs, kernel = (value[0] for value in operands(((1, 2, 9, 8, 6), (1, 3, 5, 1, 6), (2, 1), ((0, 0), (0, 0)))))
    for padding in ("SAME", "VALID"):
        how = {"strides": (2, 1), "padding": padding, "rhs_dilation": (2, 1), "feature_group_count": 6}
        found = ensemble_conv(lowering)(inputs, kernel, **how)
        np.testing.assert_allclose(found, plain(inputs, kernel, **how), atol=1e-5)


@each_lowering
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_dilation": (1, 2)},
        {"input_dilation": (2, 1), "padding": ((1, 1), (1, 1))},
        {"feature_group_count": 2},
        {"feature_group_count": 4, "out_features": 4},
        {"preferred_element_type": jnp.float32},
        {"kernel_size": 3},
    ],
    ids=lambda options: "depthwise" if "out_features" in options else next(iter(options)),
)
def test_flax_modules_take_every_option(lowering: Lowering, options: dict):
    """Under `vmap`, where each model has its own kernel."""

    def build(key: jax.Array, **changes) -> nnx.Conv:
        defaults = {"in_features": 4, "out_features": 6, "kernel_size": (3, 3)}
        return nnx.Conv(**{**defaults, **options, **changes}, rngs=nnx.Rngs(key))

    keys = jax.random.split(jax.random.key(0), 3)
    graph, _ = nnx.split(build(keys[0], conv_general_dilated=ensemble_conv(lowering)))
    states = [nnx.to_pure_dict(nnx.state(build(key))) for key in keys]
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
    images = jax.random.normal(jax.random.key(1), (4, 7, 4) if options == {"kernel_size": 3} else (4, 7, 6, 4))
    found = jax.vmap(lambda state: nnx.merge(graph, state)(images))(stacked)
    np.testing.assert_allclose(found, np.stack([build(key)(images) for key in keys]), atol=1e-5)
