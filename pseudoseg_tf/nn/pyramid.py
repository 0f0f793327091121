"""Decoder logits of images seen at several sizes: DeepLab's image pyramid.

Apart from ``inference``, which builds on it: logits need the network alone, neither padding nor files, and so can
be had wherever a model and normalized images are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import tensorflow as tf

from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.model import PseudoSegModel

# Pixels per cell of the decoder logits.
_STRIDE = 4

# Known while the graph is built, or an int32 scalar.
Side: TypeAlias = int | tf.Tensor


def pyramid_logits(
    model: PseudoSegModel,
    images: tf.Tensor,
    scales: Sequence[float],
    merge: Literal["max", "average"] = "max",
) -> tf.Tensor:
    """Runs the model on the images resized to each scale and merges the logits, all in inference mode.

    Every resize is bilinear with aligned corners, of images to ``scaled_size``. The logits are merged at the size
    that they have at the largest scale, or at scale 1 if that is larger. At scale 1 the images pass as they are.

    Zeros around an image, the mean pixel, are resized along with it: they stay zero except for the pixels of the
    scaled image that fall between the last row or column of the image and the first one of the padding.

    Args:
        model: called once per scale.
        images: normalized, float [B, H, W, 3].
        scales: factors of height and width, each greater than 0.
        merge: per cell and class, the largest logit or the mean.

    Returns:
        float32 decoder_logits [B, h, w, C], h = (scaled_size(H, max(1, *scales)) - 1) // 4 + 1, w alike.

    Raises:
        ValueError: there is no scale, one is not above 0, or ``merge`` has another value.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more numbers greater than 0, found {scales}")
    if merge not in ("max", "average"):
        raise ValueError(f'merge must be "max" or "average", found {merge!r}')
    sides = height_and_width(images)
    largest = max(1.0, *scales)
    size = tuple((scaled_size(side, largest) - 1) // _STRIDE + 1 for side in sides)
    logits = []
    for scale in scales:
        scaled_sides = tuple(scaled_size(side, scale) for side in sides)
        scaled = images if scale == 1 else resize_align_corners(images, scaled_sides)
        logits.append(resize_align_corners(model(scaled, training=False), size))
    return (tf.reduce_max if merge == "max" else tf.reduce_mean)(tf.stack(logits), axis=0)


def scaled_size(side: Side, scale: float) -> Side:
    """Returns int((side - 1) * scale + 1): corners stay on corners, and 16k + 1 stays so where it can."""
    if tf.is_tensor(side):
        # As many digits as Python's: a size must not depend on when it is known.
        return tf.cast(tf.cast(side - 1, tf.float64) * scale + 1.0, tf.int32)
    return int((side - 1) * scale + 1)


def height_and_width(images: tf.Tensor) -> tuple[Side, Side]:
    """Sides of images [B, H, W, C], static where they are known, so that the network's shapes are static too."""
    height, width = (
        static if static is not None else dynamic
        for static, dynamic in zip(images.shape[1:3], tf.unstack(tf.shape(images)[1:3]), strict=True)
    )
    return height, width
