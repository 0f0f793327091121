"""Grad-CAM (Selvaraju et al., 2017) for a classifier on the globally pooled features."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Below this a class map counts as empty; the reference's constant.
_SMALLEST_MAXIMUM = 1e-5


def classify_with_weights(
    classify: Callable[[tf.Tensor], tf.Tensor], features: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image-level logits of the pooled features, and the Grad-CAM weight of every channel for every class.

    The weight of a channel is the spatial mean of d logit / d feature. For a classifier on the pooled vector
    this derivative is the same in every cell, ``d logit / d pooled / (h * w)``, so one Jacobian on the pooled
    vector replaces a backward pass per class. Like the reference, the mean goes over the images too, which
    matters only where the classifier drops out features, other ones for every image.

    Args:
        classify: maps pooled features [B, F] to logits [B, K].
        features: [B, h, w, F], the last stage of the backbone.

    Returns:
        image_logits, float32 [B, K], through which gradients flow; and weights, float32 [K, F], a constant.
    """
    features = tf.cast(features, tf.float32)
    cells = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
    pooled = tf.reduce_mean(features, [1, 2])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pooled)
        image_logits = classify(pooled)
    jacobian = tape.batch_jacobian(image_logits, pooled)
    return image_logits, tf.stop_gradient(tf.reduce_mean(jacobian, 0) / cells)


def grad_cam(features: tf.Tensor, weights: tf.Tensor, image_labels: tf.Tensor) -> tf.Tensor:
    """Localizes each present class in the last feature map (paper section 3.2).

    Args:
        features: [B, h, w, F], the last stage of the backbone.
        weights: [K, F], of ``classify_with_weights``.
        image_labels: [B, K] in {0, 1}; classes that are absent get an all-zero map.

    Returns:
        cam, float32 [B, h, w, K] in [0, 1]; no gradient flows through it. The spatial maximum of a present class
        is 1, unless the raw map is everywhere below 1e-5.
    """
    cam = tf.nn.relu(tf.einsum("bhwf,kf->bhwk", tf.cast(features, tf.float32), weights))
    cam *= image_labels[:, tf.newaxis, tf.newaxis, :]
    return tf.stop_gradient(divide_by_maximum(cam))


def divide_by_maximum(cam: tf.Tensor) -> tf.Tensor:
    """Brings the spatial maximum of each non-negative map [B, h, w, K] to 1; an empty map stays 0."""
    maximum = tf.reduce_max(cam, [1, 2], keepdims=True)
    return tf.where(maximum > 0.0, cam / tf.maximum(maximum, _SMALLEST_MAXIMUM), tf.zeros_like(cam))
