import io

import numpy as np
import pytest
from PIL import Image

from dense.restoration.degradations import (
    add_noise,
    compress_jpeg,
    imresize,
    mod_crop,
    resize_weights,
    to_float,
)

HALF = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256  # of Keys' kernel, stretched by two


def matrix(old, new, scale, antialias=True):
    """The weights as a dense matrix (new, old)."""
    weights, indices = resize_weights(old, new, scale, antialias)
    dense = np.zeros((new, old))
    np.add.at(dense, (np.arange(new)[:, None], indices), weights)
    return dense


def test_weights_by_hand():
    half = matrix(16, 8, 0.5)
    np.testing.assert_allclose(half[3, 3:11], HALF, atol=1e-15)  # the centre of pixel 3 is at 6.5
    assert np.count_nonzero(half[3]) == 8
    assert np.count_nonzero(matrix(60, 15, 0.25)[7]) == 16
    assert np.count_nonzero(matrix(60, 15, 0.25, antialias=False)[7]) == 4
    expected = np.zeros(16)  # the first one sees pixels -3..4, of which -3, -2, -1 are the mirrored 2, 1, 0
    np.add.at(expected, [2, 1, 0, 0, 1, 2, 3, 4], HALF)
    np.testing.assert_allclose(half[0], expected, atol=1e-15)

    double = matrix(8, 16, 2.0)
    np.testing.assert_allclose(double[4, :5], [-0.0234375, 0.2265625, 0.8671875, -0.0703125, 0], atol=1e-15)
    np.testing.assert_allclose(double[5, :5], [0, -0.0703125, 0.8671875, 0.2265625, -0.0234375], atol=1e-15)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 0.3, 0.71, 1.0, 1.5, 2, 3, 7.3])
@pytest.mark.parametrize("antialias", [True, False])
def test_weights_of_any_scale(scale, antialias):
    for old in (1, 2, 7, 30):
        new = int(np.ceil(old * scale))
        weights, indices = resize_weights(old, new, scale, antialias)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
        assert indices.min() >= 0 and indices.max() < old
        width = 4 / scale if antialias and scale < 1 else 4
        assert (weights != 0).sum(1).max() <= np.ceil(width)
        image = np.full((old, 3, 2), 0.37)
        resized = imresize(image, size=(new, 3), antialias=antialias)
        np.testing.assert_allclose(resized, 0.37, atol=1e-12)
        flipped = imresize(np.random.default_rng(0).random((old, 4))[::-1], size=(new, 4))
        straight = imresize(np.random.default_rng(0).random((old, 4)), size=(new, 4))
        np.testing.assert_allclose(flipped[::-1], straight, atol=1e-12)


def test_floown_layers():
    rng = np.random.default_rng(0)
    image = rng.random((12, 16, 3))
    found = imresize(image, 0.5)
    expected = np.einsum("ih,jw,hwc->ijc", matrix(12, 6, 0.5), matrix(16, 8, 0.5), image)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert imresize(image.astype(np.float32), 0.5).dtype == np.float32
    np.testing.assert_allclose(imresize(image[..., 0], 0.5), found[..., 0], atol=1e-15)
    assert imresize(image, 0.3).shape == (4, 5, 3)  # rounded up
    assert imresize(image, size=(7, 40)).shape == (7, 40, 3)
    np.testing.assert_array_equal(imresize(image, 1.0), image)

    ramp = np.arange(20.0)[:, None] * np.ones(4)
    doubled = imresize(ramp, size=(40, 4))
    np.testing.assert_allclose(doubled[4:-4, 0], (np.arange(40) / 2 - 0.25)[4:-4], atol=1e-12)
    assert imresize(image - 5, 0.5).min() < -4  # not clipped


def test_bytes_are_rounded_after_each_axis():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)

    def passes(image, order, size):
        for axis in order:
            weights = matrix(image.shape[axis], size[axis], size[axis] / image.shape[axis])
            image = np.moveaxis(np.tensordot(weights, image.astype(float), (1, axis)), 0, axis)
            image = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
        return image

    found = imresize(image, 0.5)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, passes(image, (0, 1), (8, 12)))
    assert (found != passes(image, (1, 0), (8, 12))).any()
    # the axis that shrinks most comes first
    np.testing.assert_array_equal(imresize(image, size=(16 // 2, 24 // 4)), passes(image, (1, 0), (8, 6)))
    np.testing.assert_array_equal(imresize(image, size=(16 // 4, 24 // 2)), passes(image, (0, 1), (4, 12)))
    steps = np.tile(np.uint8([0, 0, 0, 255, 255, 255]), (6, 1))
    enlarged = imresize(steps, 2)  # overshoots: clipped
    assert enlarged.min() == 0 and enlarged.max() == 255
    halves = np.array([[0, 1], [0, 1]], np.uint8).repeat(8, 0).repeat(8, 1)
    assert imresize(halves, 1 / 16)[0, 0] == 1  # 0.5 is rounded up


def test_one_pixel():
    assert imresize(np.full((1, 1), 7, np.uint8), 4).tolist() == [[7] * 4] * 4
    assert imresize(np.full((1, 1, 3), 0.5), 0.25).shape == (1, 1, 3)
    two = imresize(np.array([[0.0], [1.0]]), size=(4, 1))[:, 0]
    np.testing.assert_allclose(two[0], -0.09375, atol=1e-15)  # mirrored: 1.09375 * 0 - 0.09375 * 1
    np.testing.assert_allclose(two[3], 1.09375, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4), np.int32), "scale": 2}, "found int32"),
        ({"image": np.zeros(4), "scale": 2}, r"found \(4,\)"),
        ({"image": np.zeros((0, 4)), "scale": 2}, r"found \(0, 4\)"),
        ({"image": np.zeros((4, 4))}, "one of scale and size"),
        ({"image": np.zeros((4, 4)), "scale": 2, "size": (8, 8)}, "one of scale and size"),
        ({"image": np.zeros((4, 4)), "scale": -1}, "above 0, found -1"),
        ({"image": np.zeros((4, 4)), "size": (0, 8)}, "at least 1"),
        ({"image": np.zeros((4, 4)), "size": (8, 8, 8)}, "height, width"),
    ],
)
def test_errors_of_imresize(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        imresize(**arguments)


def test_mod_crop():
    assert mod_crop(np.zeros((7, 9, 3)), 4).shape == (4, 8, 3)
    assert mod_crop(np.zeros((8, 8)), 4).shape == (8, 8)
    with pytest.raises(ValueError, match="at least 4, found 3 x 9"):
        mod_crop(np.zeros((3, 9)), 4)


def test_noise():
    image = np.full((200, 300, 3), 255, np.uint8)
    noisy = add_noise(image, 25, np.random.default_rng(1))
    assert noisy.dtype == np.float32 and noisy.max() > 1.2  # not clipped
    assert noisy.std() * 255 == pytest.approx(25, rel=0.01) and noisy.mean() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(noisy, add_noise(image, 25, np.random.default_rng(1)))
    np.testing.assert_array_equal(add_noise(image, 0, np.random.default_rng(1)), 1)
    with pytest.raises(ValueError, match="found -1"):
        add_noise(image, -1, np.random.default_rng(1))


def test_jpeg():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (17, 23, 3)).astype(np.uint8)
    found = compress_jpeg(image, 40)
    assert found.shape == image.shape and found.dtype == np.uint8
    error = [np.abs(compress_jpeg(image, q).astype(int) - image).mean() for q in (10, 40, 95)]
    assert error[0] > error[1] > error[2]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    np.testing.assert_array_equal(found, np.asarray(Image.open(file)))  # subsampled, as by default
    for grey in (image[..., :1], image[..., 0]):
        assert compress_jpeg(grey, 10).shape == grey.shape
    with pytest.raises(ValueError, match="found 0"):
        compress_jpeg(image, 0)
    with pytest.raises(TypeError, match="found float64"):
        compress_jpeg(image / 255, 10)


def test_to_float():
    assert to_float(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    assert to_float(np.array([0.5, 2.0])).dtype == np.float32
