"""Each loss against numpy in float64, and the shares of replicas against the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import losses


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _align_corners(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear align-corners resize of [B, h, w, C] in float64, one axis after the other."""
    for axis, n in ((1, size[0]), (2, size[1])):
        position = np.arange(n) * (x.shape[axis] - 1) / max(n - 1, 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        fraction = (position - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - fraction) + np.take(x, high, axis) * fraction
    return x


@pytest.mark.parametrize("cells", [(1, 1), (3, 5), (9, 9)])
@pytest.mark.parametrize("graph", [False, True])
def test_pixel_cross_entropy_at_label_size_over_labeled_pixels(cells: tuple[int, int], graph: bool) -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(2, *cells, 4))
    labels = random.integers(0, 4, (2, 9, 9))
    labels[random.random(labels.shape) < 0.3] = 255
    kept = labels != 255
    picked = np.take_along_axis(
        _log_softmax(_align_corners(logits, (9, 9))), np.where(kept, labels, 0)[..., None], -1
    )[..., 0]
    function = tf.function(losses.pixel_cross_entropy) if graph else losses.pixel_cross_entropy
    loss = function(tf.constant(logits, tf.float32), tf.constant(labels, tf.uint8))
    assert float(loss) == pytest.approx(-picked[kept].mean(), abs=1e-5)


def test_pixel_cross_entropy_without_a_labeled_pixel_is_zero() -> None:
    logits = tf.Variable(tf.ones([1, 3, 3, 2]))
    with tf.GradientTape() as tape:
        loss = losses.pixel_cross_entropy(logits, tf.fill([1, 3, 3], tf.constant(255, tf.uint8)))
    assert float(loss) == 0
    assert np.all(tape.gradient(loss, logits) == 0)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_consistency_divides_by_all_valid_pixels(threshold: float) -> None:
    random = np.random.default_rng(2)
    strong = random.normal(size=(2, 3, 3, 4))
    target = random.dirichlet(np.ones(4), (2, 3, 3))
    valid = random.integers(0, 2, (2, 3, 3)).astype(float)
    confidence = target.max(-1)
    counted = valid * (confidence >= threshold)
    expected = (-(target * _log_softmax(strong)).sum(-1) * counted).sum() / valid.sum()
    loss = losses.consistency(
        *(tf.constant(x, tf.float32) for x in (strong, target, valid, confidence)), threshold
    )
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_consistency_without_a_valid_pixel_is_zero() -> None:
    zeros = tf.zeros([1, 2, 2])
    assert float(losses.consistency(tf.ones([1, 2, 2, 3]), tf.ones([1, 2, 2, 3]) / 3, zeros, zeros)) == 0


def test_image_classification_is_mean_sigmoid_cross_entropy() -> None:
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(3, 5)), random.integers(0, 2, (3, 5)).astype(float)
    probability = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability)).mean()
    loss = losses.image_classification(tf.constant(logits, tf.float32), tf.constant(labels, tf.float32))
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_image_labels_skip_background_and_ignored_pixels() -> None:
    labels = tf.constant([[[0, 1], [255, 3]], [[0, 0], [0, 0]], [[255, 255], [255, 255]]], tf.uint8)
    np.testing.assert_array_equal(losses.image_labels_of(labels, 4), [[1, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_weight_decay_is_half_the_sum_of_squares() -> None:
    weights = [tf.Variable([1.0, 2.0]), tf.Variable([[3.0]])]
    assert float(losses.weight_decay(weights, 0.1)) == pytest.approx(0.1 * 14 / 2)


def test_shares_of_two_replicas_add_up_to_the_whole_batch() -> None:
    random = np.random.default_rng(4)
    logits = tf.constant(random.normal(size=(2, 3, 3, 4)), tf.float32)
    # The two halves have different numbers of labeled pixels: a mean of means would be wrong.
    labels = random.integers(0, 4, (2, 5, 5)).astype(np.uint8)
    labels[0, :4] = 255
    count = float((labels != 255).sum())
    whole = losses.pixel_cross_entropy(logits, tf.constant(labels))
    shares = [
        losses.pixel_cross_entropy(logits[i : i + 1], tf.constant(labels[i : i + 1]), lambda _: count)
        for i in range(2)
    ]
    assert float(shares[0] + shares[1]) == pytest.approx(float(whole), abs=1e-6)
