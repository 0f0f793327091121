"""Grad-CAM (Selvaraju et al., 2017) for a classifier on the globally pooled features."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Below this a class map counts as empty; the reference's constant.
_SMALLEST_MAXIMUM = 1e-5


def grad_cam(
    features: tf.Tensor, classify: Callable[[tf.Tensor], tf.Tensor], image_labels: tf.Tensor
) -> tf.Tensor:
    """Localizes each present class in the last feature map (paper section 3.2).

    The weight of a channel is the spatial mean of d logit / d feature. For a classifier on the pooled vector
    this derivative is the same in every cell, ``d logit / d pooled / (h * w)``, so one Jacobian on the pooled
    vector replaces a backward pass per class.

    Args:
        features: [B, h, w, F], the last stage of the backbone.
        classify: maps the pooled features [B, F] to image-level logits [B, K].
        image_labels: [B, K] in {0, 1}; classes that are absent get an all-zero map.

    Returns:
        cam, float32 [B, h, w, K] in [0, 1]; no gradient flows through it. The spatial maximum of a present class
        is 1, unless the raw map is everywhere below 1e-5.
    """
    features = tf.stop_gradient(tf.cast(features, tf.float32))
    cells = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
    pooled = tf.reduce_mean(features, [1, 2])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pooled)
        image_logits = classify(pooled)
    weights = tape.batch_jacobian(image_logits, pooled) / cells
    cam = tf.nn.relu(tf.einsum("bhwf,bkf->bhwk", features, weights))
    cam *= image_labels[:, tf.newaxis, tf.newaxis, :]
    return tf.stop_gradient(divide_by_maximum(cam))


def divide_by_maximum(cam: tf.Tensor) -> tf.Tensor:
    """Brings the spatial maximum of each non-negative map [B, h, w, K] to 1; an empty map stays 0."""
    maximum = tf.reduce_max(cam, [1, 2], keepdims=True)
    return tf.where(maximum > 0.0, cam / tf.maximum(maximum, _SMALLEST_MAXIMUM), tf.zeros_like(cam))
