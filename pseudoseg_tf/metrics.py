"""How good a segmentation is: intersection over union, pixel accuracy, calibration error.

Everything is a sum over labeled pixels, kept as int64 and float64 so that neither a large validation set
nor the number of replicas changes the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError

# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: 15 bins of equal width.
CALIBRATION_BINS = 15


def confusion_matrix(labels: tf.Tensor, predictions: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Counts each pair of label and prediction.

    Args:
      labels: integers of any shape, each below ``num_classes`` or ``IGNORE_LABEL``, which is skipped.
      predictions: integers of the same shape, each below ``num_classes``.
      num_classes: C.

    Returns:
      int64 [C, C]; rows are labels, columns predictions.
    """
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    predictions = tf.cast(tf.reshape(predictions, [-1]), tf.int32)
    # Negative segments are dropped.
    pairs = tf.where(labels == IGNORE_LABEL, -1, labels * num_classes + predictions)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(pairs), pairs, num_classes * num_classes)
    return tf.cast(tf.reshape(counts, [num_classes, num_classes]), tf.int64)


def calibration_sums(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Counts pixels, correct ones and confidence per bin of confidence.

    The confidence of a pixel is its largest probability; bin k holds confidences in (k/15, (k+1)/15].

    Args:
      labels: integers [...]; ``IGNORE_LABEL`` is skipped.
      probabilities: float32 [..., C] in [0, 1].

    Returns:
      float64 [15, 3]: in each bin, the number of pixels, the number of correct ones, the sum of confidences.
    """
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    predictions = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
    correct = tf.cast(labels == tf.reshape(predictions, [-1]), tf.float64)
    confidence = tf.cast(tf.reshape(tf.reduce_max(probabilities, axis=-1), [-1]), tf.float64)
    bins = tf.cast(tf.math.ceil(confidence * CALIBRATION_BINS), tf.int32) - 1
    bins = tf.clip_by_value(bins, 0, CALIBRATION_BINS - 1)
    bins = tf.where(labels == IGNORE_LABEL, -1, bins)
    each = tf.stack([tf.ones_like(confidence), correct, confidence], axis=-1)
    return tf.math.unsorted_segment_sum(each, bins, CALIBRATION_BINS)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How confidence and accuracy agree, bin by bin of confidence.

    Attributes:
      sums: float64 [15, 3] of ``calibration_sums``.
    """

    sums: npt.NDArray[np.float64]

    @property
    def pixels(self) -> npt.NDArray[np.float64]:
        """Pixels in each bin: [15]."""
        return self.sums[:, 0]

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of correct pixels in each bin, NaN in an empty one: [15]."""
        return self._mean(1)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Mean confidence in each bin, NaN in an empty one: [15]."""
        return self._mean(2)

    @property
    def mean_confidence(self) -> float:
        """Of all pixels."""
        return float(self.sums[:, 2].sum() / self.pixels.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: the bins' |accuracy - confidence|, averaged over the pixels."""
        return float(np.abs(self.sums[:, 1] - self.sums[:, 2]).sum() / self.pixels.sum())

    def to_json(self) -> list[dict[str, float | int | None]]:
        """The bins as plain JSON values: ``pixels``, ``accuracy``, ``confidence``; None where no pixel is."""
        return [
            {
                "pixels": int(pixels),
                "accuracy": float(accuracy) if pixels else None,
                "confidence": float(confidence) if pixels else None,
            }
            for pixels, accuracy, confidence in zip(self.pixels, self.accuracy, self.confidence, strict=True)
        ]

    def _mean(self, column: int) -> npt.NDArray[np.float64]:
        empty = np.full(CALIBRATION_BINS, np.nan)
        return np.divide(self.sums[:, column], self.pixels, out=empty, where=self.pixels > 0)


def intersection_over_union(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU of each class from a confusion matrix [C, C] of counts: float64 [C].

    A class that is neither label nor prediction has no IoU: NaN. One that is predicted but never a label
    has IoU 0. The mean IoU of the field (TF1's ``tf.metrics.mean_iou``) is ``np.nanmean`` of this.
    """
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def scores(
    confusion: npt.NDArray[np.int64], reliability: Reliability, class_names: Sequence[str]
) -> dict[str, Any]:
    """The metrics of counted pixels; see ``SegmentationMetrics.result``."""
    pixels = confusion.sum()
    if pixels == 0:
        raise UserError(
            f"no labeled pixel was evaluated: every mask value is {IGNORE_LABEL} (ignore); check the masks"
        )
    if not np.isfinite(reliability.sums).all():
        raise UserError(
            "the predicted probabilities are not finite: the weights have diverged; "
            "train again with a smaller train.learning_rate"
        )
    iou = intersection_over_union(confusion)
    return {
        "miou": float(np.nanmean(iou)),
        "pixel_accuracy": float(np.trace(confusion) / pixels),
        "ece": reliability.ece,
        "iou": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(class_names, iou, strict=True)
        },
    }


class SegmentationMetrics(tf.Module):
    """Accumulates a confusion matrix and calibration sums over the batches and replicas of an evaluation.

    Create it, ``reset`` it and read its ``result`` in the scope of the strategy, outside of its replicas;
    ``update`` it inside each replica.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(name="segmentation_metrics")
        self._num_classes = num_classes
        self._confusion = _replica_sum([num_classes, num_classes], tf.int64, "confusion")
        self._calibration = _replica_sum([CALIBRATION_BINS, 3], tf.float64, "calibration_sums")

    def update(self, labels: tf.Tensor, probabilities: tf.Tensor) -> None:
        """Adds a batch: labels uint8 [B, H, W] (255 is skipped), probabilities float32 [B, H, W, C]."""
        predictions = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        self._confusion.assign_add(confusion_matrix(labels, predictions, self._num_classes))
        self._calibration.assign_add(calibration_sums(labels, probabilities))

    def reset(self) -> None:
        """Forgets every batch."""
        for variable in (self._confusion, self._calibration):
            variable.assign(tf.zeros_like(variable))

    def is_empty(self) -> bool:
        """Whether no labeled pixel was added since ``reset``; ``result`` needs one."""
        return not self._confusion.numpy().any()

    def reliability(self) -> Reliability:
        """How confidence and accuracy agreed in all batches since ``reset``; its means need a labeled pixel."""
        return Reliability(self._calibration.numpy())

    def result(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The metrics of all batches since ``reset``, as values that JSON can hold.

        Returns:
          ``miou``, ``pixel_accuracy``, ``ece``: floats in [0, 1]; ``iou``: class name -> float, or None
          for a class that is neither label nor prediction.

        Raises:
          UserError: no pixel had a label, or the probabilities are not finite.
        """
        return scores(self._confusion.numpy(), self.reliability(), class_names)


def _replica_sum(shape: list[int], dtype: tf.DType, name: str) -> tf.Variable:
    """A variable that each replica adds to on its own and that reads as the sum over replicas."""
    return tf.Variable(
        tf.zeros(shape, dtype),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
