import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxmia.data.resize import resize, resize_matrix, resized_shape

CASES = [((28, 28), 32), ((224, 224), 32), ((32, 32), 32), ((8, 8), 32), ((33, 47), 20), ((47, 33), 61), ((1, 5), 3)]


def pixels(shape, dtype: type = np.float32):
    levels = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
    return levels if dtype == np.uint8 else (levels / 255).astype(dtype)


def in_torch(images, size):
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    shape = resized_shape(images.shape[1], images.shape[2], size)
    resized = F.interpolate(planes, shape, mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_agrees_with_pytorch(shape, size):
    images = pixels(shape)
    # PyTorch finds the weights in float32, jaxmia in float64: they part by some units in the last place of a position.
    np.testing.assert_allclose(resize(images, size), in_torch(images, size), rtol=0, atol=5e-6)


def test_bytes_are_the_same_pixels():
    np.testing.assert_allclose(
        resize(pixels((28, 28), np.uint8), 32), in_torch(pixels((28, 28)), 32), rtol=0, atol=1e-6
    )


def test_under_jit_too():
    images = pixels((28, 28))
    resized = jax.jit(lambda images: resize(images, 32))(images)
    np.testing.assert_allclose(resized, in_torch(images, 32), rtol=0, atol=1e-6)


def test_halving_is_the_triangle_in_closed_form():
    # A triangle of radius 2 around the border of two pixels: 1/4 of the way at distance 3/2, 3/4 at 1/2.
    np.testing.assert_allclose(resize_matrix(6, 3)[1], np.array([0, 1, 3, 3, 1, 0]) / 8, rtol=0, atol=1e-7)
    np.testing.assert_allclose(resize_matrix(6, 3)[0], np.array([3, 3, 1, 0, 0, 0]) / 7, rtol=0, atol=1e-7)


def test_same_size_is_the_identity():
    np.testing.assert_array_equal(resize_matrix(5, 5), np.eye(5, dtype=np.float32))


def test_constant_images_stay_constant():
    for before, after in ((28, 32), (224, 32), (7, 100)):
        np.testing.assert_allclose(resize_matrix(before, after).sum(1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(28, 28, (32, 32)), (20, 31, (32, 49)), (31, 20, (49, 32)), (64, 224, (32, 112))]
)
def test_the_shorter_side_is_named_by_the_size(height, width, shape):
    assert resized_shape(height, width, 32) == shape
