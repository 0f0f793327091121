"""Each loss against numpy in float64, and the shares of replicas against the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pseudoseg_tf import losses
from pseudoseg_tf.losses import PixelLossOptions


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


def _pixel_losses(logits: np.ndarray, labels: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Weighted cross entropies [B, H, W] in float64, 0 where ignored; logits at the labels' size."""
    kept = labels != 255
    classes = np.where(kept, labels, 0).astype(int)
    picked = np.take_along_axis(_log_softmax(logits), classes[..., None], -1)[..., 0]
    return -picked * kept * (np.array(weights)[classes] if weights else 1.0)


@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 0.0, 1.0)])
@pytest.mark.parametrize("hardest", [1.0, 0.9, 0.25])
@pytest.mark.parametrize("graph", [False, True])
def test_pixel_options_in_float64(
    upsample: bool, weights: tuple[float, ...], hardest: float, graph: bool
) -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(2, 3, 5, 4))
    labels = random.integers(0, 4, (2, 9, 17)).astype(np.uint8)
    labels[random.random(labels.shape) < 0.4] = 255
    # Sizes 4k + 1: every fourth pixel lies under a cell.
    full, given = (_align_corners(logits, (9, 17)), labels) if upsample else (logits, labels[:, ::4, ::4])
    pixels = _pixel_losses(full, given, weights).ravel()
    if hardest == 1.0:
        expected = pixels.sum() / (given != 255).sum()
    else:
        chosen = np.sort(pixels)[::-1][: int(hardest * pixels.size)]
        expected = chosen.sum() / (chosen != 0).sum()

    def loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        options = PixelLossOptions(upsample, weights, hardest)
        return losses.pixel_cross_entropy(logits, labels, options=options)

    function = tf.function(loss) if graph else loss
    found = function(tf.constant(logits, tf.float32), tf.constant(labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_hardest_pixels_by_hand() -> None:
    """Two classes with logits (0, x) and label 0 cost log(1 + e^x): only the two largest learn."""
    costs = np.array([0.1, 3.0, 1.0, 2.0, 5.0])
    logits = tf.Variable(np.stack([0 * costs, np.log(np.expm1(costs))], -1)[None, None], dtype=tf.float32)
    labels = tf.constant([[[0, 0, 0, 0, 255]]], tf.uint8)
    with tf.GradientTape() as tape:
        # 5 * 0.5 = 2.5 pixels: two.
        loss = losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(hardest=0.5))
    assert float(loss) == pytest.approx(2.5, rel=1e-6)
    learns = np.abs(tape.gradient(loss, logits).numpy()[0, 0, :, 1]) > 0
    np.testing.assert_array_equal(learns, [False, True, False, True, False])
    # All five: the ignored one is no loss and does not count.
    every = losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(hardest=tf.constant(1.0)))
    assert float(every) == pytest.approx(6.1 / 4, rel=1e-6)
    none = losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(hardest=0.1))
    assert float(none) == 0


def test_label_weights_do_not_enter_the_denominator() -> None:
    logits, labels = tf.zeros([1, 1, 4, 2]), tf.constant([[[0, 1, 1, 255]]], tf.uint8)
    loss = losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(label_weights=(3.0, 0.5)))
    assert float(loss) == pytest.approx(np.log(2) * (3 + 0.5 + 0.5) / 3, rel=1e-6)
    with pytest.raises(ValueError, match="label_weights: 3 numbers for 2 classes"):
        losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(label_weights=(1.0, 1.0, 1.0)))


@settings(max_examples=40)
@given(
    logits=hnp.arrays(np.float32, (1, 4, 5, 3), elements=st.floats(-10, 10, width=32)),
    labels=hnp.arrays(np.uint8, (1, 4, 5), elements=st.sampled_from([0, 1, 2, 255])),
    parts=st.tuples(st.floats(0.05, 0.99), st.floats(0.05, 0.99)),
)
def test_fewer_pixels_are_harder(logits: np.ndarray, labels: np.ndarray, parts: tuple[float, float]) -> None:
    fewer, more, every = (
        float(losses.pixel_cross_entropy(logits, labels, options=PixelLossOptions(hardest=part)))
        for part in (min(parts), max(parts), 1.0)
    )
    if (labels == 255).all():
        assert fewer == more == every == 0
    else:
        # A loss of exactly 0 is in the mean over all labeled pixels alone.
        assert fewer >= more - 1e-5 and more >= every - 1e-5


@pytest.mark.parametrize(("step", "part"), [(0, 1.0), (25, 0.8125), (50, 0.625), (100, 0.25), (10**6, 0.25)])
def test_hardest_part_shrinks_to_its_value(step: int, part: float) -> None:
    assert float(losses.hardest_part(tf.constant(step, tf.int64), 0.25, 100)) == part
    assert losses.hardest_part(step, 0.25, 0) == 0.25
    assert losses.hardest_part(step, 1.0, 100) == 1.0


def test_the_part_may_change_from_step_to_step_in_one_graph() -> None:
    random = np.random.default_rng(6)
    logits, labels = random.normal(size=(1, 4, 5, 3)), random.integers(0, 3, (1, 4, 5))
    ordered = np.sort(_pixel_losses(logits, labels, ()).ravel())[::-1]

    @tf.function(jit_compile=True)
    def loss(step: tf.Tensor) -> tf.Tensor:
        options = PixelLossOptions(hardest=losses.hardest_part(step, 0.25, 4))
        return losses.pixel_cross_entropy(
            tf.constant(logits, tf.float32), tf.constant(labels), options=options
        )

    for step, count in ((0, 20), (2, 12), (4, 5), (9, 5)):
        assert float(loss(tf.constant(step))) == pytest.approx(ordered[:count].mean(), rel=1e-5)


def test_a_loss_that_is_not_a_number_is_not_left_out() -> None:
    logits = tf.constant([[[[0.0, 1.0], [np.nan, 0.0], [0.0, 2.0], [0.0, 0.0]]]])
    options = PixelLossOptions(hardest=0.5)
    assert np.isnan(losses.pixel_cross_entropy(logits, tf.zeros([1, 1, 4], tf.int32), options=options))


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
    every = losses.image_labels_of(labels, 4, background=False)
    np.testing.assert_array_equal(every, [[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_weight_decay_is_half_the_sum_of_squares() -> None:
    weights = [tf.Variable([1.0, 2.0]), tf.Variable([[3.0]])]
    assert float(losses.weight_decay(weights, 0.1)) == pytest.approx(0.1 * 14 / 2)


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 0.0, 1.0)])
def test_shares_of_two_replicas_add_up_to_the_whole_batch(weights: tuple[float, ...]) -> None:
    options = PixelLossOptions(label_weights=weights)
    random = np.random.default_rng(4)
    logits = tf.constant(random.normal(size=(2, 3, 3, 4)), tf.float32)
    # The two halves have different numbers of labeled pixels: a mean of means would be wrong.
    labels = random.integers(0, 4, (2, 5, 5)).astype(np.uint8)
    labels[0, :4] = 255
    count = float((labels != 255).sum())
    whole = losses.pixel_cross_entropy(logits, tf.constant(labels), options=options)
    shares = [
        losses.pixel_cross_entropy(
            logits[i : i + 1], tf.constant(labels[i : i + 1]), lambda _: count, options
        )
        for i in range(2)
    ]
    assert float(shares[0] + shares[1]) == pytest.approx(float(whole), abs=1e-6)


def test_each_replica_chooses_its_own_hardest_pixels() -> None:
    random = np.random.default_rng(7)
    logits, labels = random.normal(size=(2, 3, 4, 3)), random.integers(0, 3, (2, 3, 4))
    # The first image is easy: of both together, nearly all hard pixels would be the second's.
    logits[0] *= 0.1
    chosen = np.concatenate([np.sort(part.ravel())[-3:] for part in _pixel_losses(logits, labels, ())])
    shares = [
        losses.pixel_cross_entropy(
            tf.constant(logits[i : i + 1], tf.float32),
            tf.constant(labels[i : i + 1]),
            lambda count: 2 * count,
            PixelLossOptions(hardest=0.25),
        )
        for i in range(2)
    ]
    assert float(shares[0] + shares[1]) == pytest.approx(chosen.mean(), rel=1e-5)
