"""A convolution that stays fast under `jax.vmap` over models, each of which has its own kernel.

`vmap` over a convolution with a batched kernel yields a grouped convolution, the slow path of every XLA backend.
Here the three linear parts of a convolution (output, input gradient, kernel gradient) are each a
`jax.custom_batching.custom_vmap`, so that each has its own batching rule. Differentiation happens inside `vmap`
through a `jax.custom_vjp`, so the rules themselves are never differentiated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxmia.config import Lowering
from jaxmia.models.groups import in_groups, is_depthwise, shifted_sum
from jaxmia.models.native import convolution as native
from jaxmia.models.native.convolution import Window

LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)

_NHWC = ("NHWC", "HWIO", "NHWC")
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: _NHWC, 3: ("NDHWC", "DHWIO", "NDHWC")}
_Product = Callable[[jax.Array, jax.Array], jax.Array]


@functools.cache
def ensemble_conv(lowering: Lowering, threads: int = 1) -> Callable[..., jax.Array]:
    """Returns a replacement for `lax.conv_general_dilated` that batches over models as `lowering` says.

    Pass it as `nnx.Conv(conv_general_dilated=...)`. Arrays have the channels last. The kernels of `native` have groups
    and dilation. Elsewhere groups are convolved one after another by JAX's own convolution or, under `vmap`, by the
    lowering; a depthwise convolution, with one kernel and one output per channel, is a sum of shifted inputs. What no
    lowering supports is JAX's own convolution under `vmap` too: dilated inputs, groups in three spatial dimensions that
    are not depthwise, `preferred_element_type`.

    Args:
        lowering: How K inputs are convolved with K kernels: `grouped`, one convolution with K feature groups (as plain
            `vmap` does); `unrolled`, K convolutions in one graph; `matmul`, one batched matrix product of patches and
            kernels; `native`, this package's C++ kernels for CPUs (`jaxmia.models.native`), which must be available,
            and which compute convolutions with groups or dilation outside `vmap` too.
        threads: Most threads with which the kernels of `native` compute.
    """

    def conv(
        inputs: jax.Array,
        kernel: jax.Array,
        strides: Sequence[int],
        padding: str | Sequence[tuple[int, int]],
        *,
        lhs_dilation: Sequence[int] = (),
        rhs_dilation: Sequence[int] = (),
        dimension_numbers: Any = None,
        feature_group_count: int = 1,
        preferred_element_type: Any = None,
        **options: Any,
    ) -> jax.Array:
        axes = inputs.ndim - 2
        dilation = rhs_dilation or (1,) * axes
        supported = axes in (1, 2) or (axes == 3 and is_depthwise(inputs, kernel, feature_group_count))
        if not supported or {*lhs_dilation} - {1} or preferred_element_type is not None:
            return lax.conv_general_dilated(
                inputs,
                kernel,
                strides,
                padding,
                lhs_dilation=lhs_dilation or (1,) * axes,
                rhs_dilation=dilation,
                dimension_numbers=dimension_numbers or _LAYOUTS[axes],
                feature_group_count=feature_group_count,
                preferred_element_type=preferred_element_type,
                **options,
            )
        if isinstance(padding, str):
            reach = [gap * (size - 1) + 1 for gap, size in zip(dilation, kernel.shape[:-2], strict=True)]
            padding = lax.padtype_to_pads(inputs.shape[1:-1], reach, strides, padding)
        return _grouped(lowering, threads, inputs, kernel, strides, padding, dilation, feature_group_count)

    return conv


def _grouped(
    lowering: Lowering,
    threads: int,
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> jax.Array:
    if inputs.ndim == 3:  # as images of one row
        strides, padding, dilation = (1, *strides), ((0, 0), *padding), (1, *dilation)
        return _grouped(lowering, threads, inputs[:, None], kernel[None], strides, padding, dilation, groups)[:, 0]
    depthwise = is_depthwise(inputs, kernel, groups)
    if depthwise and (lowering != "native" or inputs.ndim == 5):
        return shifted_sum(inputs, kernel, strides, padding, dilation)
    (top, bottom), (left, right) = padding
    window = Window((strides[0], strides[1]), ((top, bottom), (left, right)))
    if lowering == "native":
        window = window._replace(dilation=(dilation[0], dilation[1]), groups=groups)
        return _convolution(lowering, window, threads)(inputs, kernel)
    return in_groups(_convolution(lowering, window, threads), inputs, _spread(kernel, dilation), groups)


def _spread(kernel: jax.Array, dilation: Sequence[int]) -> jax.Array:
    """Inserts zeros between the taps of a kernel, which is then equivalent to the dilated one."""
    gaps = [(0, 0, gap - 1) for gap in dilation]
    return lax.pad(kernel, jnp.zeros((), kernel.dtype), [*gaps, (0, 0, 0), (0, 0, 0)])


@functools.cache
def _convolution(lowering: Lowering, window: Window, threads: int) -> _Product:
    """Returns the convolution `(inputs [n, h, w, c], kernel [i, j, c, d]) -> [n, h', w', d]` for a fixed window."""
    many = functools.partial(native.forward, threads=threads) if lowering == "native" else _FORWARD[lowering]
    many = functools.partial(many, window=window)
    forward = _batched(
        _alone(many) if _is_special(window) else functools.partial(_library, window=window),
        many,
        # The kernels read copies of the input faster than XLA convolves it on a CPU and moves the models to the front.
        shared_input=None if lowering == "native" else functools.partial(_wide, window=window),
    )

    @jax.custom_vjp
    def convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return forward(inputs, kernel)

    def save(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return forward(inputs, kernel), (inputs, kernel)

    def pull(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, kernel = saved
        input_gradient, kernel_gradient = _gradients(lowering, window, inputs.shape[1:3], kernel.shape[:2], threads)
        # Without the barrier, XLA's CPU backend fuses the preceding operations into the transpositions that the kernel
        # gradient needs, with poor memory order: this costs a tenth of a training step of a small ResNet.
        return input_gradient(cotangent, kernel), kernel_gradient(*lax.optimization_barrier((inputs, cotangent)))

    convolution.defvjp(save, pull)
    return convolution


@functools.cache
def _gradients(
    lowering: Lowering, window: Window, spatial: tuple[int, int], taps: tuple[int, int], threads: int
) -> tuple[_Product, _Product]:
    """Returns the input gradient of `(cotangent, kernel)` and the kernel gradient of `(inputs, cotangent)`."""

    def input_gradient(product: _Product, cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
        shape = (*cotangent.shape[:-3], *spatial, kernel.shape[-2])
        inputs = jax.ShapeDtypeStruct(shape, kernel.dtype)
        return jax.linear_transpose(lambda value: product(value, kernel), inputs)(cotangent)[0]

    def kernel_gradient(product: _Product, inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
        shape = (*inputs.shape[:-4], *taps, inputs.shape[-1], cotangent.shape[-1])
        kernel = jax.ShapeDtypeStruct(shape, inputs.dtype)
        return jax.linear_transpose(lambda value: product(inputs, value), kernel)(cotangent)[0]

    solo = functools.partial(_library, window=window)
    solos = functools.partial(input_gradient, solo), functools.partial(kernel_gradient, solo)
    if lowering == "native":
        many = (
            functools.partial(native.input_gradient, window=window, spatial=spatial, threads=threads),
            functools.partial(native.kernel_gradient, window=window, taps=taps, threads=threads),
        )
    elif lowering == "matmul":
        product = functools.partial(_patches, window=window)
        many = functools.partial(input_gradient, product), functools.partial(kernel_gradient, product)
    else:
        spread = jax.vmap if lowering == "grouped" else _unroll
        many = spread(solos[0]), spread(solos[1])
    if _is_special(window):
        solos = _alone(many[0]), _alone(many[1])
    return _batched(solos[0], many[0]), _batched(solos[1], many[1])


def _batched(
    solo: _Product,
    many: _Product,
    shared_input: _Product | None = None,
) -> _Product:
    """Returns `solo` with `many` as its rule under `vmap`, whose operands both have a leading model axis.

    `shared_input`, where given, is the rule when only the right operand has a model axis.
    """
    function = custom_vmap(solo)

    @function.def_vmap
    def rule(axis_size: int, batched: Sequence[bool], left: jax.Array, right: jax.Array) -> tuple[jax.Array, bool]:
        if shared_input is not None and not batched[0]:
            return shared_input(left, right), True
        if not batched[0]:
            left = jnp.broadcast_to(left, (axis_size, *left.shape))
        if not batched[1]:
            right = jnp.broadcast_to(right, (axis_size, *right.shape))
        return many(left, right), True

    return function


def _is_special(window: Window) -> bool:
    """Whether a convolution has groups or dilation, which only the kernels compute fast, of one model too."""
    return window != Window(window.strides, window.padding)


def _alone(many: _Product) -> _Product:
    """Computes for one model what `many` computes for several."""
    return lambda left, right: many(left[None], right[None])[0]


def _unroll(function: _Product) -> _Product:
    """Maps over the leading axis of both operands with one call for each model in the graph."""

    def unrolled(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.stack([function(left[i], right[i]) for i in range(left.shape[0])])

    return unrolled


def _library(inputs: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return lax.conv_general_dilated(inputs, kernel, window.strides, window.padding, dimension_numbers=_NHWC)


def _wide(inputs: jax.Array, kernels: jax.Array, window: Window) -> jax.Array:
    """Convolves one input with K kernels, as one convolution with K times the output channels."""
    models, *taps, channels, features = kernels.shape
    wide = jnp.moveaxis(kernels, 0, -2).reshape(*taps, channels, models * features)
    outputs = _library(inputs, wide, window)
    return jnp.moveaxis(outputs.reshape(*outputs.shape[:-1], models, features), -2, 0)


def _patches(inputs: jax.Array, kernels: jax.Array, window: Window) -> jax.Array:
    """Convolves `[model, n, h, w, c]` with `[model, i, j, c, d]` as one batched product of patches and kernels."""
    (down, across), (vertical, horizontal) = window.strides, window.padding
    models, rows, columns, channels, features = kernels.shape
    padded = jnp.pad(inputs, ((0, 0), (0, 0), vertical, horizontal, (0, 0)))
    height = (padded.shape[2] - rows) // down + 1
    width = (padded.shape[3] - columns) // across + 1
    shifts = [
        padded[:, :, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
        for i in range(rows)
        for j in range(columns)
    ]
    patches = jnp.concatenate(shifts, axis=-1) if len(shifts) > 1 else shifts[0]
    matrix = kernels.reshape(models, rows * columns * channels, features)
    return jnp.einsum("mnhwp,mpd->mnhwd", patches, matrix)


_FORWARD: dict[Lowering, Callable[..., jax.Array]] = {
    "grouped": lambda inputs, kernels, window: jax.vmap(functools.partial(_library, window=window))(inputs, kernels),
    "unrolled": lambda inputs, kernels, window: _unroll(functools.partial(_library, window=window))(inputs, kernels),
    "matmul": _patches,
}
