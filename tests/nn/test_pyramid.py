"""The image pyramid: sizes, agreement with a plain computation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.pyramid import pyramid_logits, scaled_size
from tests.tiny import TinyModel, resize_plainly

Merge = Literal["max", "average"]


def eager(function: Callable) -> Callable:
    return function


def dynamic(function: Callable) -> Callable:
    return tf.function(function, input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])


@pytest.mark.parametrize(
    ("side", "scale", "size"),
    [(513, 0.5, 257), (513, 1.75, 897), (97, 1, 97), (10, 0.5, 5), (33, 1.1, 36), (17, 0.01, 1), (1, 4, 1)],
)
def test_scaled_size(side: int, scale: float, size: int) -> None:
    assert scaled_size(side, scale) == size


@pytest.mark.parametrize("scale", [0.1, 0.29, 0.57, 0.7, 1.1, 1.15, 3.3])
def test_scaled_size_is_the_same_when_only_the_graph_knows_the_side(scale: float) -> None:
    # 0.57 * 100 and 0.29 * 100 are just below 57 and 29 in floating point.
    sides = np.arange(1, 1200)
    expected = [scaled_size(int(side), scale) for side in sides]
    np.testing.assert_array_equal(tf.function(scaled_size)(tf.constant(sides, tf.int32), scale), expected)


@pytest.mark.parametrize("how", [eager, tf.function, dynamic])
@pytest.mark.parametrize(
    ("scales", "merge", "size"),
    [
        ([0.5], "max", (9, 13)),
        ([0.5, 1.0], "max", (9, 13)),
        ([0.5, 1.0], "average", (9, 13)),
        ([1.0, 0.75, 1.75], "max", (15, 22)),
        ([1.3], "average", (11, 16)),
    ],
)
def test_pyramid_equals_the_plain_computation(
    scales: list[float], merge: Merge, size: tuple[int, int], how: Callable
) -> None:
    model = TinyModel()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 33, 49, 3)).astype(np.float32)
    logits = how(lambda x: pyramid_logits(model, x, scales, merge))(tf.constant(images))
    expected = []
    for scale in scales:
        scaled = resize_plainly(images, (int(32 * scale + 1), int(48 * scale + 1)))
        expected.append(resize_plainly(model.convolution(scaled.astype(np.float32)).numpy(), size))
    expected = np.max(expected, 0) if merge == "max" else np.mean(expected, 0)
    assert logits.shape == expected.shape and logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("side", [17, 20, 33, 46])
@pytest.mark.parametrize("scale", [1.0, 1.1, 1.25, 2.6])
def test_logits_of_a_scale_of_at_least_1_are_those_of_the_model(side: int, scale: float) -> None:
    model = TinyModel()
    images = tf.random.stateless_normal([1, side, side + 7, 3], [1, 2])
    scaled = resize_align_corners(images, (scaled_size(side, scale), scaled_size(side + 7, scale)))
    np.testing.assert_array_equal(pyramid_logits(model, images, [scale]), model(scaled))


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, -0.5]])
def test_pyramid_refuses_scales(scales: list[float]) -> None:
    with pytest.raises(ValueError, match="numbers greater than 0, found"):
        pyramid_logits(TinyModel(), tf.zeros([1, 17, 17, 3]), scales)


def test_pyramid_refuses_another_merge() -> None:
    with pytest.raises(ValueError, match='"max" or "average", found \'mean\''):
        pyramid_logits(TinyModel(), tf.zeros([1, 17, 17, 3]), [1.0], "mean")
