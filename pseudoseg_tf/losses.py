"""The losses of the paper: L_s and L_sa (pixel labels), L_u (pseudo labels), L_x (image labels), weight decay.

Every mean is over the global batch: sums and counts go through ``across_replicas``, so that the losses of the
replicas add up to the loss of one replica with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.nn.layers import resize_align_corners, resize_mask
from pseudoseg_tf.pseudo_label import AcrossReplicas, one_replica


def _global_mean(
    values: tf.Tensor, weights: tf.Tensor, count: tf.Tensor, across: AcrossReplicas
) -> tf.Tensor:
    """This replica's share of sum(values * weights) / count; 0 if nothing counts."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), across(tf.reduce_sum(count)))


class PixelLossOptions(NamedTuple):
    """Which pixels count in L_s and L_sa, and how much."""

    # Logits are resized to the labels; false: labels, by nearest, to the logits.
    upsample_logits: bool = True
    # Factor on the loss of each class's pixels, one per class; empty: 1.
    label_weights: Sequence[float] = ()
    # Part of the pixels that counts, those of the largest loss; a tensor where it changes. 1.0: all.
    hardest: float | tf.Tensor = 1.0


ALL_PIXELS = PixelLossOptions()


def hardest_part(step: int | tf.Tensor, part: float, steps: int) -> float | tf.Tensor:
    """The part of hard pixel mining at a step: from 1 to ``part``, linear over the first ``steps`` steps.

    Args:
        part: in (0, 1].
        steps: 0 for ``part`` from the start.

    Returns:
        ``part`` itself if it never changes, else a float32 scalar in [part, 1].
    """
    if part == 1.0 or steps == 0:
        return part
    done = tf.minimum(1.0, tf.cast(step, tf.float32) / float(steps))
    return done * part + (1.0 - done)


def pixel_cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    across_replicas: AcrossReplicas = one_replica,
    options: PixelLossOptions = ALL_PIXELS,
) -> tf.Tensor:
    """Cross entropy of the labeled pixels, by default their mean at the labels' resolution: L_s and L_sa.

    All pixels: the sum of the weighted losses over the number of labeled pixels, whatever the weights.
    The hardest pixels: of all n pixels of the batch, ignored ones included, the ``int(hardest * n)`` with the
    largest weighted loss; the mean over those of them whose loss is not 0. Each replica chooses its own from
    its share of the batch; the mean is over what all replicas have chosen.

    Args:
        logits: float32 [B, h, w, C], resized (bilinear, align corners) to the label size.
        labels: integer [B, H, W], each below C or 255 = ignore; resized (nearest, align corners) to [B, h, w]
            instead where ``options.upsample_logits`` is false.

    Returns:
        Scalar, 0 or greater; 0 when no pixel is labeled.

    Raises:
        ValueError: label weights that are not one per class.
    """
    num_classes = logits.shape[-1]
    if options.label_weights and len(options.label_weights) != num_classes:
        raise ValueError(f"label_weights: {len(options.label_weights)} numbers for {num_classes} classes")
    if options.upsample_logits:
        logits = resize_align_corners(logits, tf.shape(labels)[1:3])
    else:
        labels = _labels_at(labels, tf.shape(logits)[1:3])
    counted = tf.not_equal(labels, IGNORE_LABEL)
    classes = tf.where(counted, tf.cast(labels, tf.int32), 0)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    count = weights = tf.cast(counted, tf.float32)
    if options.label_weights:
        weights *= tf.gather(tf.constant(options.label_weights, tf.float32), classes)
    if not tf.is_tensor(options.hardest) and options.hardest == 1.0:
        return _global_mean(cross_entropy, weights, count, across_replicas)

    # All sorted, and as many of them taken as the part asks for: shapes stay static for XLA.
    ordered = tf.sort(tf.reshape(cross_entropy * weights, [-1]), direction="DESCENDING")
    pixels = tf.size(ordered)
    hardest = tf.cast(options.hardest * tf.cast(pixels, tf.float32), tf.int32)
    # As a product, so that a loss that is not a number cannot hide among the pixels left out.
    chosen = ordered * tf.cast(tf.range(pixels) < hardest, tf.float32)
    present = tf.cast(tf.not_equal(chosen, 0.0), tf.float32)
    return _global_mean(chosen, tf.ones_like(chosen), present, across_replicas)


def labeled_pixels(labels: tf.Tensor, logits_size: tuple[int, int], options: PixelLossOptions) -> tf.Tensor:
    """1 where ``pixel_cross_entropy`` counts a pixel, else 0; float32.

    Args:
        labels: as there.
        logits_size: height and width of the logits; the result has it if labels are resized, else that of the labels.
    """
    labels = labels if options.upsample_logits else _labels_at(labels, logits_size)
    return tf.cast(tf.not_equal(labels, IGNORE_LABEL), tf.float32)


def _labels_at(labels: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    # As floats, because TensorFlow's kernel for integers runs on the CPU alone.
    return resize_mask(tf.cast(labels, tf.float32), size, align_corners=True)


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


def image_labels_of(labels: tf.Tensor, num_classes: int, background: bool = True) -> tf.Tensor:
    """Which classes occur: [B, H, W] with 255 = ignore -> float32 of 0 and 1.

    [B, C-1] without class 0, the ``background``; [B, C] where there is none.
    """
    classes = tf.reshape(tf.range(int(background), num_classes, dtype=tf.int32), [1, 1, -1])
    flat = tf.reshape(tf.cast(labels, tf.int32), [tf.shape(labels)[0], -1, 1])
    return tf.cast(tf.reduce_any(tf.equal(flat, classes), 1), tf.float32)


def weight_decay(weights: Sequence[tf.Variable], scale: float) -> tf.Tensor:
    """scale / 2 * sum of squares, as slim's l2 regularizer."""
    return scale * tf.add_n([tf.nn.l2_loss(tf.cast(weight, tf.float32)) for weight in weights])
