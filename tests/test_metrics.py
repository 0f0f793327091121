"""Metrics: hand-computed values, the reference's numbers, and sums over batches and replicas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import metrics
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError


def random_batch(rng: np.random.Generator, batch: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, num_classes, [batch, 5, 7]).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = IGNORE_LABEL
    logits = rng.normal(size=[*labels.shape, num_classes]).astype(np.float32) * 3
    return labels, tf.nn.softmax(logits).numpy()


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
def test_confusion_matrix_counts_pairs_and_skips_ignored_pixels(wrap: Callable[..., Any]) -> None:
    labels = tf.constant([[0, 0, 1], [2, 255, 1]], tf.uint8)
    predictions = tf.constant([[0, 2, 1], [2, 1, 0]], tf.uint8)
    count = wrap(lambda a, b: metrics.confusion_matrix(a, b, 3))
    confusion = count(labels, predictions)
    assert confusion.dtype == tf.int64
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [1, 1, 0], [0, 0, 1]])


def test_confusion_matrix_refuses_labels_beyond_the_classes() -> None:
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError, match="out of range"):
        metrics.confusion_matrix(tf.constant([4]), tf.constant([0]), 3)


def test_intersection_over_union_tells_absent_classes_from_wrong_ones() -> None:
    # Class 1 is predicted but never a label; class 3 is neither.
    confusion = np.array([[4, 1, 0, 0], [0, 0, 0, 0], [2, 0, 3, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(metrics.intersection_over_union(confusion), [4 / 7, 0, 3 / 5, np.nan])


def test_calibration_sums_by_hand() -> None:
    probabilities = tf.constant([[0.95, 0.05], [0.45, 0.55], [0.9, 0.1], [0.59, 0.41]])
    labels = tf.constant([0, 0, IGNORE_LABEL, 0], tf.uint8)
    sums = metrics.calibration_sums(labels, probabilities).numpy()
    expected = np.zeros([15, 3])
    expected[14] = [1, 1, 0.95]
    expected[8] = [2, 1, 0.55 + 0.59]
    np.testing.assert_allclose(sums, expected, atol=1e-7)
    assert sums.dtype == np.float64


def test_bins_are_closed_above() -> None:
    # One class of two: confidence exactly 1 and exactly 1/2 have no rounding.
    sums = metrics.calibration_sums(tf.constant([1, 1]), tf.constant([[1.0, 0.0], [0.5, 0.5]])).numpy()
    np.testing.assert_array_equal(sums[14], [1, 0, 1])
    np.testing.assert_array_equal(sums[7], [1, 0, 0.5])


@pytest.mark.parametrize("edge", range(1, 15))
def test_confidences_about_a_bin_edge_go_where_exact_arithmetic_puts_them(edge: int) -> None:
    """k/15 is no float32: each number next to it is above or below, never on the edge."""
    nearest = np.float32(edge / 15)
    confidences = [np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(1))]
    for confidence in confidences:
        # The other classes share the rest, so that this is the largest.
        rest = np.full(40, (1 - confidence) / 40, np.float32)
        probabilities = np.concatenate([[confidence], rest])[np.newaxis]
        sums = metrics.calibration_sums(tf.constant([0]), tf.constant(probabilities)).numpy()
        expected = math.ceil(Fraction(float(confidence)) * 15) - 1
        assert list(np.flatnonzero(sums[:, 0])) == [expected]
        assert expected == (edge if Fraction(float(confidence)) > Fraction(edge, 15) else edge - 1)


def test_reliability_of_two_bins() -> None:
    sums = np.zeros([15, 3])
    sums[8], sums[14] = [3, 1, 1.75], [1, 1, 0.95]
    reliability = metrics.Reliability(sums)
    np.testing.assert_array_equal(reliability.pixels, [0] * 8 + [3] + [0] * 5 + [1])
    np.testing.assert_allclose(reliability.accuracy[[8, 14, 0]], [1 / 3, 1, np.nan])
    np.testing.assert_allclose(reliability.confidence[[8, 14, 0]], [1.75 / 3, 0.95, np.nan])
    assert reliability.ece == pytest.approx((0.75 + 0.05) / 4)
    assert reliability.mean_confidence == pytest.approx(2.7 / 4)
    bins = reliability.to_json()
    assert bins[0] == {"pixels": 0, "accuracy": None, "confidence": None}
    assert bins[8] == {"pixels": 3, "accuracy": pytest.approx(1 / 3), "confidence": pytest.approx(1.75 / 3)}
    assert json.loads(json.dumps(bins, allow_nan=False)) == bins


def test_calibration_error_equals_the_definition() -> None:
    labels, probabilities = random_batch(np.random.default_rng(0), 3, 4)
    accumulated = metrics.SegmentationMetrics(4)
    accumulated.update(labels, probabilities)

    kept = labels != IGNORE_LABEL
    confidence = probabilities.max(-1)[kept].astype(np.float64)
    correct = (probabilities.argmax(-1) == labels)[kept]
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    np.testing.assert_allclose(accumulated.result("abcd")["ece"], error, rtol=1e-12)


def test_result_over_batches_equals_one_batch_and_reset_forgets() -> None:
    labels, probabilities = random_batch(np.random.default_rng(1), 6, 3)
    whole, parts = metrics.SegmentationMetrics(3), metrics.SegmentationMetrics(3)
    update = tf.function(parts.update)
    whole.update(labels, probabilities)
    update(*random_batch(np.random.default_rng(2), 2, 3))
    parts.reset()
    for index in range(0, 6, 2):
        update(labels[index : index + 2], probabilities[index : index + 2])
    expected, found = whole.result("abc"), parts.result("abc")
    assert found["miou"] == expected["miou"]
    assert found["iou"] == expected["iou"]
    assert found["pixel_accuracy"] == expected["pixel_accuracy"]
    np.testing.assert_allclose(found["ece"], expected["ece"], rtol=1e-12)


def test_result_of_a_perfect_and_certain_prediction() -> None:
    labels = np.array([[[0, 1, IGNORE_LABEL]]], np.uint8)
    accumulated = metrics.SegmentationMetrics(3)
    accumulated.update(labels, tf.one_hot([[[0, 1, 2]]], 3))
    result = accumulated.result(["background", "cat", "dog"])
    assert result == {
        "miou": 1.0,
        "pixel_accuracy": 1.0,
        "ece": 0.0,
        "iou": {"background": 1.0, "cat": 1.0, "dog": None},
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_result_without_labels_or_with_diverged_weights_says_so() -> None:
    accumulated = metrics.SegmentationMetrics(2)
    accumulated.update(np.full([1, 2, 2], IGNORE_LABEL, np.uint8), np.full([1, 2, 2, 2], 0.5, np.float32))
    with pytest.raises(UserError, match="no labeled pixel"):
        accumulated.result("ab")
    accumulated.update(np.zeros([1, 2, 2], np.uint8), np.full([1, 2, 2, 2], np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        accumulated.result("ab")


def test_replicas_add_up(two_replicas: tf.distribute.Strategy) -> None:
    labels, probabilities = random_batch(np.random.default_rng(3), 4, 3)
    expected = metrics.SegmentationMetrics(3)
    expected.update(labels, probabilities)

    with two_replicas.scope():
        accumulated = metrics.SegmentationMetrics(3)

    def replica(context: tf.distribute.ReplicaContext) -> tuple[np.ndarray, np.ndarray]:
        half = slice(2 * context.replica_id_in_sync_group, 2 * context.replica_id_in_sync_group + 2)
        return labels[half], probabilities[half]

    batches = two_replicas.experimental_distribute_values_from_function(
        lambda context: tuple(map(tf.constant, replica(context)))
    )
    two_replicas.run(accumulated.update, args=batches)
    with two_replicas.scope():
        found = accumulated.result("abc")
        assert found["iou"] == expected.result("abc")["iou"]
        np.testing.assert_allclose(found["ece"], expected.result("abc")["ece"], rtol=1e-12)
        np.testing.assert_allclose(accumulated.reliability().sums, expected.reliability().sums, rtol=1e-12)
        accumulated.reset()
        with pytest.raises(UserError, match="no labeled pixel"):
            accumulated.result("abc")


@pytest.mark.needs_shared
def test_reference_numbers(shared_dir: Path) -> None:
    reference = json.loads((shared_dir / "reference" / "A" / "metrics.json").read_text())
    labels, predictions = np.array(reference["labels"]), np.array(reference["predictions"])
    confusion = metrics.confusion_matrix(labels, predictions, 21).numpy()
    np.testing.assert_array_equal(confusion, reference["confusion_rows_are_labels"])
    iou = metrics.intersection_over_union(confusion)
    np.testing.assert_allclose(np.nanmean(iou), reference["miou"], rtol=1e-6)
    # The reference reports a value only for classes that are a label somewhere.
    is_label = np.array([value is not None for value in reference["iou_per_class"]])
    np.testing.assert_array_equal(is_label, confusion.sum(1) > 0)
    np.testing.assert_allclose(
        iou[is_label], [value for value in reference["iou_per_class"] if value is not None], rtol=1e-6
    )
