"""From images to labels and probabilities: one function for evaluation, export and prediction."""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf.data.geometry import padded_size
from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.model import PseudoSegModel


def predict(
    model: PseudoSegModel,
    images: tf.Tensor,
    minimum: tuple[int, int],
    sizes: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Segments a batch of images of one size, each at its own resolution.

    The images are padded at the bottom and right to the canvas of ``geometry.padded_size``; padding is
    zero after normalization, whatever it held before. Decoder logits are resized to the canvas (bilinear,
    aligned corners) before the softmax, as in the reference, and the padding is cut off again.

    Args:
      model: called in inference mode.
      images: uint8 [B, H, W, 3].
      minimum: smallest canvas (height, width); ``data.eval_size``.
      sizes: int32 [B, 2]: height and width of each image where ``images`` already holds padding. None: the
        images fill [H, W].

    Returns:
      labels uint8 [B, H, W] and probabilities float32 [B, H, W, C].
    """
    # Static sizes where they are known, so that the network's shapes are static too.
    height, width = (
        static if static is not None else dynamic
        for static, dynamic in zip(images.shape[1:3], tf.unstack(tf.shape(images)[1:3]), strict=True)
    )
    canvas = padded_size(height, minimum[0]), padded_size(width, minimum[1])
    border = [[0, 0], [0, canvas[0] - height], [0, canvas[1] - width], [0, 0]]
    if sizes is None:
        sizes = tf.tile([[height, width]], [tf.shape(images)[0], 1])
    rows = tf.sequence_mask(sizes[:, 0], canvas[0])
    columns = tf.sequence_mask(sizes[:, 1], canvas[1])
    valid = rows[:, :, tf.newaxis] & columns[:, tf.newaxis]
    padded = tf.pad(tf.cast(images, tf.float32), border)
    logits = resize_align_corners(model(model.normalize(padded, valid), training=False), canvas)
    probabilities = tf.nn.softmax(logits[:, :height, :width])
    labels = tf.cast(tf.argmax(probabilities, axis=-1, output_type=tf.int32), tf.uint8)
    return labels, probabilities
