"""Sampling by taps and by OpenCV against TensorFlow's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pseudoseg_tf.data import resampling
from tests.data.test_geometry import random_example


@pytest.mark.parametrize("scaled", [40, 41, 60, 97, 160, 1])
def test_taps_are_few_and_their_weights_add_up(scaled: int) -> None:
    taps = resampling.axis_taps(80, scaled, 0, 200)
    assert taps.indices.shape == taps.weights.shape
    assert taps.indices.shape[1] == scaled
    assert len(taps.indices) <= np.ceil(2 * max(80 / scaled, 1))
    assert taps.indices.min() >= 0 and taps.indices.max() < 80
    np.testing.assert_allclose(taps.weights.sum(0), 1.0, rtol=1e-6)


def test_the_scale_1_is_a_copy() -> None:
    image, _ = random_example(30, 20)
    taps = resampling.axis_taps(30, 30, 5, 100)
    np.testing.assert_array_equal(taps.indices, [np.arange(5, 30)])
    crop = resampling.sample(image, (30, 20), (5, 3), (100, 100), np.uint8)
    np.testing.assert_array_equal(crop[:25, :17], image[5:, 3:])
    assert not crop[25:].any() and not crop[:, 17:].any()
    mirrored = resampling.sample(image, (30, 20), (5, 3), (100, 100), np.uint8, flip=True)
    np.testing.assert_array_equal(mirrored, crop[:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.5, 1.75, 2.0])
def test_every_value_is_that_of_tensorflow_rounded(scale: float, flip: bool) -> None:
    """On more rows than a strip has. Positions of 150 pixels are exact to 1e-5 in float32, times 255 levels."""
    image, _ = random_example(150, 170)
    scaled = (np.array([150, 170]) * scale).astype(int)
    offset, crop = (scaled > 97) * 11, (97, 97)
    expected = tf.raw_ops.ScaleAndTranslate(
        images=image[np.newaxis],
        size=crop,
        scale=tf.constant(scaled, tf.float32) / (150.0, 170.0),
        translation=-tf.constant(offset, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0].numpy()
    found = resampling.sample(image, scaled, offset, crop, np.uint8, flip)
    assert np.abs(found - (expected[:, ::-1] if flip else expected)).max() < 0.505


@given(st.data())
def test_opencv_interpolates_as_the_taps_do(data: st.DataObject) -> None:
    """Pictures that do not shrink, of any size down to a pixel, sampled anywhere."""
    size, more, crop = (
        np.array(data.draw(st.tuples(st.integers(low, high), st.integers(low, high))))
        for low, high in ((1, 50), (0, 80), (1, 90))
    )
    scaled = size + more
    offset = [data.draw(st.integers(0, beyond)) for beyond in np.maximum(scaled - crop, 0)]
    flip = data.draw(st.booleans())
    image, _ = random_example(*size)
    found = resampling.sample(image, scaled, offset, crop, np.uint8, flip)
    by_taps = resampling.sample(image.astype(np.float32), scaled, offset, crop, np.float32, flip)
    assert np.abs(found - by_taps).max() < 0.505


@pytest.mark.parametrize("size", [(40_000, 2), (2, 32_767), (2, 32_766)])
def test_sides_longer_than_opencv_takes(size: tuple[int, int]) -> None:
    image, _ = random_example(*size)
    scaled = np.array(size) * (1, 2)
    offset = (size[0] - 2, scaled[1] - 2)
    found = resampling.sample(image, scaled, offset, (2, 2), np.uint8)
    np.testing.assert_allclose(found[:, 1], image[-2:, -1], atol=0.501)


def test_any_number_of_channels_and_floats() -> None:
    image = np.random.default_rng(0).normal(size=(9, 8, 5)).astype(np.float32)
    found = resampling.sample(image, (13, 5), (0, 0), (13, 5), np.float32)
    expected = tf.image.resize(image, (13, 5), antialias=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
