"""Each operator against PyTorch's own, on inputs whose axes are stored in PyTorch's order and channels last."""

import functools
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge.graph.operators import COMPUTED, COMPUTED_RANDOM, PURE, RANDOM
from bridge.graph.tensor import Tensor, channels_last, plain, tensor
from jaxmia.models import Compute
from tests.bridge.graph.cases import CASES, image, numbers

ATEN = torch.ops.aten
KEY = jax.random.key(0)


def in_jax(value, order=None) -> Any:
    """Arguments of PyTorch as the operators take them, tensors of rank three and more stored in another order."""
    if isinstance(value, torch.Tensor):
        array = value.numpy()
        axes = tuple(order(value.ndim) if order and value.ndim >= 3 else range(value.ndim))
        return Tensor((array.astype(np.int32) if array.dtype == np.int64 else array).transpose(axes), axes)
    if isinstance(value, torch.dtype):
        return jnp.dtype({torch.float32: "float32", torch.int64: "int32", torch.bool: "bool"}[value])
    if isinstance(value, list | tuple):
        return type(value)(in_jax(part, order) for part in value)
    return value


def compiled(function, arguments, **options):
    """What a function of tensors gives, as one program of their arrays: arrays in PyTorch's order of axes."""
    parts, structure = jax.tree.flatten(arguments, is_leaf=is_tensor)

    @jax.jit
    def program(arrays):
        given = [
            part if array is None else Tensor(array, part.order) for part, array in zip(parts, arrays, strict=True)
        ]
        result = function(*structure.unflatten(given), **options)
        return jax.tree.map(lambda part: plain(part) if is_tensor(part) else part, result, is_leaf=is_tensor)

    return program([part.array if is_tensor(part) else None for part in parts])


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)


def compare(ours, theirs, tolerance=2e-5):
    if isinstance(theirs, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            if one is not None:
                compare(one, other, tolerance)
        return
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert np.shape(ours) == np.shape(theirs)
    assert np.asarray(ours).dtype.kind == np.asarray(theirs).dtype.kind
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def named(name, table):
    overload = name if name in table else name.partition(".")[0]
    return table[overload]


def theirs(name):
    packet, _, overload = name.partition(".")
    packet = getattr(ATEN, packet)
    return getattr(packet, overload) if overload else packet


@pytest.mark.parametrize(
    "order", [None, channels_last, lambda ndim: tuple(range(ndim))[::-1]], ids=["", "last", "back"]
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_operator(case, order):
    name, arguments, *options = case
    options = options[0] if options else {}
    in_ours = {key: in_jax(value) for key, value in options.items()}
    compare(compiled(named(name, PURE), in_jax(arguments, order), **in_ours), theirs(name)(*arguments, **options))


def test_every_operator_of_the_table_has_a_case():
    tested = {case[0] for case in CASES} | {case[0].partition(".")[0] for case in CASES}
    # Normalisations are tested below; the others only make or keep values, or share their function with one above.
    elsewhere = [
        "_fused_rms_norm contiguous",
        "_native_batch_norm_legit_no_training _adaptive_avg_pool2d _adaptive_avg_pool3d _unsafe_view baddbmm",
        "dot empty empty_like empty_permuted empty_strided lift_fresh_copy max_pool1d_with_indices new_empty new_ones",
        "ones sym_numel sym_size zeros _upsample_nearest_exact1d.vec",
    ]
    assert set(PURE) - tested == set(" ".join(elsewhere).split())


CONVOLUTIONS = [
    {},
    {"stride": [2, 1], "padding": [1, 2]},
    {"dilation": [2, 1], "padding": [2, 0]},
    {"groups": 2},
    {"groups": 6, "padding": [1, 1], "stride": [2, 2]},
    {"groups": 6, "features": 12},
    {"transposed": True},
    {"transposed": True, "stride": [2, 3], "padding": [1, 0], "output_padding": [1, 2]},
    {"transposed": True, "groups": 3, "stride": [2, 2]},
    {"transposed": True, "dilation": [2, 1]},
    {"rank": 1, "stride": [2], "padding": [1]},
    {"rank": 1, "groups": 6},
    {"rank": 3, "padding": [1, 1, 1]},
    {"rank": 3, "groups": 2, "transposed": True, "stride": [2, 1, 1]},
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_convolution(case, bias):
    rank, groups, transposed = case.get("rank", 2), case.get("groups", 1), case.get("transposed", False)
    features = case.get("features", 6)
    kernel = (6, features // groups) if transposed else (features, 6 // groups)
    shift = numbers(features, seed=2) if bias else None
    inputs = [image(2, 6, *(7, 9, 6)[:rank]), numbers(*kernel, *(3, 2, 2)[:rank], seed=1), shift]
    window = [case.get(key, [default] * rank) for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    rest = [*window, transposed, case.get("output_padding", [0] * rank), groups]
    compute = Compute()

    def ours(*parts):
        return plain(COMPUTED["convolution"](compute, *(part and Tensor(*part) for part in parts), *rest))

    laid = [in_jax(value) for value in inputs]
    wanted = [value.requires_grad_() if value is not None else None for value in inputs]
    expected = ATEN.convolution(*wanted, *rest)
    expected.square().sum().backward()

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients_and_outputs(arrays):
        outputs = ours(*map(tensor, arrays), *[None] * (3 - len(arrays)))
        return jnp.square(outputs).sum(), outputs

    gradients, outputs = gradients_and_outputs([value.array for value in laid if value is not None])
    compare(outputs, expected)
    for gradient, value in zip(gradients, inputs, strict=False):
        compare(gradient, value.grad, tolerance=2e-4)


@pytest.mark.parametrize("order", [None, channels_last], ids=["", "last"])
@pytest.mark.parametrize("shape", [(9,), (3, 9), (2, 6, 7, 9)], ids=str)
def test_dense_layer(shape, order):
    arguments = (numbers(*shape), numbers(5, 9, seed=1), numbers(5, seed=2))
    linear = functools.partial(COMPUTED["linear"], Compute())
    compare(compiled(linear, in_jax(arguments, order)), ATEN.linear(*arguments))
    compare(compiled(linear, in_jax(arguments[:2], order)), ATEN.linear(*arguments[:2]))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 3, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation(shape, affine):
    inputs = image(*shape) * 2 + 1
    weight, bias = (numbers(6, seed=1), numbers(6, seed=2)) if affine else (None, None)
    mean, var = numbers(6, seed=3), numbers(6, seed=4, positive=True)
    arguments = (inputs, weight, bias, mean, var)
    functional = functools.partial(COMPUTED["_native_batch_norm_legit_functional"], Compute())
    ours = compiled(functional, in_jax((*arguments, True, 0.2, 1e-4), channels_last))
    compare(ours, ATEN._native_batch_norm_legit_functional(*arguments, True, 0.2, 1e-4))
    ours = compiled(PURE["_native_batch_norm_legit_no_training"], in_jax((*arguments, 0.2, 1e-4)))
    compare(ours[0], ATEN._native_batch_norm_legit_no_training(*arguments, 0.2, 1e-4)[0])
    no_stats = functools.partial(COMPUTED["_native_batch_norm_legit.no_stats"], Compute())
    ours = compiled(no_stats, in_jax((*arguments[:3], True, 0.2, 1e-4)))
    compare(ours[0], ATEN._native_batch_norm_legit.no_stats(*arguments[:3], True, 0.2, 1e-4)[0])


def test_root_mean_square_normalisation():
    inputs, weight = image(), numbers(9, seed=1)
    ours = compiled(PURE["_fused_rms_norm"], in_jax((inputs, [9], weight, 1e-5), channels_last))
    compare(ours[0], torch.nn.functional.rms_norm(inputs, [9], weight, 1e-5))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": image(2, 1, 5, 7, seed=5)},
        {"attn_mask": image(5, 7, seed=5) > 0},
        {"attn_mask": torch.arange(5)[:, None] > torch.arange(7)},
    ],
    ids=["", "causal", "scale", "bias", "mask", "row without any"],
)
def test_attention(options):
    query, keys, values = image(2, 3, 5, 4), image(2, 3, 7, 4, seed=1), image(2, 3, 7, 6, seed=2)
    if options.get("is_causal"):
        keys, values = keys[:, :, :5], values[:, :, :5]
    mask = options.get("attn_mask")
    rest = {key: value for key, value in options.items() if key != "attn_mask"}
    attention = functools.partial(COMPUTED_RANDOM["scaled_dot_product_attention"], Compute(), KEY)
    ours = compiled(attention, in_jax((query, keys, values, mask)), **rest)
    compare(ours, ATEN.scaled_dot_product_attention(query, keys, values, mask, 0.0, **rest))


def test_attention_of_groups_of_queries():
    query, keys, values = image(2, 4, 5, 4), image(2, 2, 7, 4, seed=1), image(2, 2, 7, 6, seed=2)
    attention = functools.partial(COMPUTED_RANDOM["scaled_dot_product_attention"], Compute(), KEY)
    ours = compiled(attention, in_jax((query, keys, values)), enable_gqa=True)
    compare(ours, ATEN.scaled_dot_product_attention(query, keys, values, enable_gqa=True))


@pytest.mark.parametrize(
    ("name", "arguments", "mean", "std"),
    [
        ("rand", ([50, 400],), 0.5, 12**-0.5),
        ("randn", ([50, 400],), 0, 1),
        ("rand_like", (numbers(50, 400),), 0.5, 12**-0.5),
        ("randn_like", (numbers(50, 400),), 0, 1),
        ("uniform", (numbers(50, 400), -1.0, 3.0), 1, 4 * 12**-0.5),
        ("normal_functional", (numbers(50, 400), 2.0, 0.5), 2, 0.5),
        ("bernoulli", (torch.full((50, 400), 0.3),), 0.3, 0.21**0.5),
        ("bernoulli", (numbers(50, 400), 0.3), 0.3, 0.21**0.5),
        ("native_dropout", (torch.ones(50, 400), 0.2, True), 1, 0.5),
        ("native_dropout", (torch.ones(50, 400), 0.2, False), 1, 0),
        ("native_dropout", (torch.ones(50, 400), 1.0, True), 0, 0),
    ],
)
def test_random_numbers(name, arguments, mean, std):
    def drawn(key):
        result = compiled(functools.partial(RANDOM[name], key), in_jax(arguments))
        return np.asarray(result[0] if isinstance(result, list) else result)

    values = drawn(KEY)
    assert values.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(values.size) + 1e-6)
    assert values.std() == pytest.approx(std, rel=0.05, abs=1e-6)
    if std:
        assert not np.array_equal(values, drawn(jax.random.key(1)))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clamp", (-1.0, 1.0)),
        ("hardtanh", (-1.0, 1.0)),
        ("relu", ()),
        ("elu", ()),
        ("leaky_relu", (0.2,)),
        ("max.dim", (0,)),
        ("amax", ([0],)),
        ("abs", ()),
    ],
)
def test_gradients_at_corners_are_those_of_pytorch(name, arguments):
    corners = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.0, 90.0, -90.0])
    for values in pairwise([corners, corners.flip(0), corners]):
        value = values[0].clone().requires_grad_()
        result = theirs(name)(value, *arguments)
        (result[0] if isinstance(result, tuple) else result).sum().backward()

        def ours(array):
            result = named(name, PURE)(tensor(array), *arguments)
            return plain(result[0] if isinstance(result, list) else result).sum()

        compare(jax.jit(jax.grad(ours))(values[0].numpy()), value.grad)


def test_embedding_gives_no_gradient_to_the_padding_row():
    table, index = jnp.ones((4, 2)), jnp.array([0, 1, 1])
    gradient = jax.grad(lambda table: plain(PURE["embedding"](tensor(table), tensor(index), 1)).sum())(table)
    np.testing.assert_array_equal(gradient[:, 0], [1, 0, 0, 0])


def test_permutations_move_no_data():
    value = Tensor(jnp.ones((2, 3, 4, 5)), channels_last(4))
    moved = PURE["permute"](value, [0, 2, 3, 1])
    assert moved.array is value.array
    assert moved.shape == (2, 3, 4, 5)


def test_images_stay_channels_last_through_pools_and_arithmetic():
    def network(array):
        value = PURE["relu"](Tensor(array, channels_last(4)))
        value = PURE["max_pool2d_with_indices"](value, [2, 2])[0]
        value = PURE["cat"]([value, PURE["add"](value, value)], 1)
        return PURE["mean"](value, [2, 3]).array

    assert "transpose" not in str(jax.make_jaxpr(network)(jnp.ones((2, 8, 8, 6))))


def test_max_pool_of_tiles_gives_the_gradient_to_the_first_of_equal_maxima():
    inputs = (image(2, 3, 6, 8) > 0).float().requires_grad_()
    factors = image(2, 3, 3, 4, seed=1)
    (torch.nn.functional.max_pool2d(inputs, 2) * factors).sum().backward()

    def total(array):
        return (plain(PURE["max_pool2d_with_indices"](tensor(array), [2, 2])[0]) * factors.numpy()).sum()

    compare(jax.grad(total)(jnp.asarray(inputs.detach().numpy())), inputs.grad)


def test_max_pool_of_tiles_keeps_nan():
    inputs = torch.tensor([[[[0.0, torch.nan, 1.0, 2.0], [3.0, 1.0, 0.0, torch.nan]]]])
    pooled = plain(PURE["max_pool2d_with_indices"](*in_jax((inputs,)), [2, 2])[0])
    assert np.isnan(pooled).all()
