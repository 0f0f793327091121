"""The losses of the paper: L_s and L_sa (pixel labels), L_u (pseudo labels), L_x (image labels), weight decay.

Every mean is over the global batch: sums and counts go through ``across_replicas``, so that the losses of the
replicas add up to the loss of one replica with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.pseudo_label import AcrossReplicas, one_replica


def _global_mean(
    values: tf.Tensor, weights: tf.Tensor, count: tf.Tensor, across: AcrossReplicas
) -> tf.Tensor:
    """This replica's share of sum(values * weights) / count; 0 if nothing counts."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), across(tf.reduce_sum(count)))


def pixel_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, across_replicas: AcrossReplicas = one_replica
) -> tf.Tensor:
    """Cross entropy at the resolution of the labels, mean over labeled pixels of the batch: L_s and L_sa.

    Args:
        logits: float32 [B, h, w, C], resized (bilinear, align corners) to the label size.
        labels: integer [B, H, W], 255 = ignore.

    Returns:
        Scalar; 0 when no pixel is labeled.
    """
    logits = resize_align_corners(logits, tf.shape(labels)[1:3])
    counted = tf.not_equal(labels, IGNORE_LABEL)
    classes = tf.where(counted, tf.cast(labels, tf.int32), 0)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    weights = tf.cast(counted, tf.float32)
    return _global_mean(cross_entropy, weights, weights, across_replicas)


def consistency(
    strong_logits: tf.Tensor,
    pseudo_label: tf.Tensor,
    valid: tf.Tensor,
    confidence: tf.Tensor,
    threshold: float = 0.0,
    across_replicas: AcrossReplicas = one_replica,
) -> tf.Tensor:
    """Cross entropy of the strong view against the pseudo label, mean over valid pixels: L_u.

    Args:
        strong_logits: float32 [B, h, w, C], decoder resolution.
        pseudo_label: [B, h, w, C], a constant.
        valid: [B, h, w], 0 in padding and CutOut.
        confidence: [B, h, w]; below ``threshold`` a pixel leaves the sum. The count stays that of all valid
            pixels, as in the reference: few confident pixels weigh little.
    """
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(pseudo_label), strong_logits)
    weights = valid * tf.cast(confidence >= threshold, tf.float32) if threshold > 0.0 else valid
    return _global_mean(cross_entropy, weights, valid, across_replicas)


def image_classification(
    image_logits: tf.Tensor, image_labels: tf.Tensor, across_replicas: AcrossReplicas = one_replica
) -> tf.Tensor:
    """Sigmoid cross entropy of the image-level classifier, mean over images and classes: L_x.

    Args:
        image_logits, image_labels: float32 [B, K].
    """
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(image_labels, image_logits)
    ones = tf.ones_like(cross_entropy)
    return _global_mean(cross_entropy, ones, ones, across_replicas)


def image_labels_of(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Which foreground classes occur: [B, H, W] with 255 = ignore -> float32 [B, C-1] of 0 and 1."""
    classes = tf.reshape(tf.range(1, num_classes, dtype=tf.int32), [1, 1, -1])
    flat = tf.reshape(tf.cast(labels, tf.int32), [tf.shape(labels)[0], -1, 1])
    return tf.cast(tf.reduce_any(tf.equal(flat, classes), 1), tf.float32)


def weight_decay(weights: Sequence[tf.Variable], scale: float) -> tf.Tensor:
    """scale / 2 * sum of squares, as slim's l2 regularizer."""
    return scale * tf.add_n([tf.nn.l2_loss(tf.cast(weight, tf.float32)) for weight in weights])
