"""The weak view: scale, pad, crop and flip of an image with its labels; and the padding of evaluation.

Before either, images may be resized to a range of sizes.

The reference resizes the whole image (antialiased, half-pixel centers), pads it at the bottom and right and
cuts the crop out. Here the three are one sampling of exactly the crop, so the cost does not grow with the
scale and the scaled image never exists. All random numbers come in as `GeometryDraws`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from pseudoseg_tf.data import resampling
from pseudoseg_tf.data.specs import IGNORE_LABEL

_Size = TypeVar("_Size", int, tf.Tensor)


class GeometryDraws(NamedTuple):
    """What the weak view of one example leaves to chance.

    Attributes:
        scaled_size: int32 [2], height and width of the scaled image.
        offset: int32 [2], row and column of the scaled and padded image where the crop begins.
        flip: bool [], whether the crop is mirrored left to right.
    """

    scaled_size: tf.Tensor
    offset: tf.Tensor
    flip: tf.Tensor


def range_size(image_size: tf.Tensor, minimum: int, maximum: int = 0, factor: int = 0) -> tf.Tensor:
    """Returns the size that `resize_to_range` gives an image, as int32 [2], each side at least 1.

    Both sides keep their proportion: the smaller one becomes `minimum`, unless the larger one would then
    exceed `maximum`; in that case the larger one becomes `maximum`.

    Args:
        image_size: int32 [2], height and width.
        minimum: of the smaller side; greater than 0.
        maximum: of the larger side; 0 for none.
        factor: each side is then rounded up to a multiple of it, plus one; `maximum` counts as the largest
            such number that it reaches. 0: sides stay as they are.
    """
    if maximum and factor:
        maximum -= (maximum - 1) % factor
    sides = tf.cast(image_size, tf.float32)

    # In float32 and cut off, as in the reference: where the product falls below an integer, a side is one
    # pixel short of `minimum` or `maximum`.
    def scaled(side: tf.Tensor, target: int) -> tf.Tensor:
        return tf.cast(tf.floor(sides * (tf.cast(target, tf.float32) / side)), tf.int32)

    size = scaled(tf.reduce_min(sides), minimum)
    if maximum:
        size = tf.where(tf.reduce_max(size) > maximum, scaled(tf.reduce_max(sides), maximum), size)
    size = tf.maximum(size, 1)
    return size + (1 - size) % factor if factor else size


def resize_image(images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes images [B, h, w, C] to `size`, int32 [2]: bilinear, aligned corners, float32 not rounded."""
    return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=True)


def resize_to_range(
    image: tf.Tensor, labels: tf.Tensor, minimum: int, maximum: int = 0, factor: int = 0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes one example to the size of `range_size`.

    Args:
        image: uint8 or float32 [h, w, 3].
        labels: uint8 [h, w].
        minimum: see `range_size`, as are the next two.
        maximum: 0 for none.
        factor: 0 for none.

    Returns:
        The image float32 [H, W, 3], bilinear and not rounded; the labels uint8 [H, W], each from the nearest
        pixel. Both with aligned corners.
    """
    size = range_size(tf.shape(labels), minimum, maximum, factor)
    resized = tf.raw_ops.ResizeNearestNeighbor(
        images=labels[tf.newaxis, ..., tf.newaxis], size=size, align_corners=True
    )
    return resize_image(image[tf.newaxis], size)[0], resized[0, ..., 0]


def scale_factors(min_scale: float, max_scale: float, scale_step: float) -> np.ndarray:
    """Returns the factors min_scale, min_scale + scale_step, ... up to max_scale as float32 [n]."""
    steps = np.floor((max_scale - min_scale) / scale_step + 1e-6)
    return (min_scale + scale_step * np.arange(steps + 1)).astype(np.float32)


def scaled_size(image_size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Returns int(size * scale), at least 1, as int32 [2]; `image_size` is int32 [2], `scale` float32 []."""
    return tf.maximum(tf.cast(tf.cast(image_size, tf.float32) * scale, tf.int32), 1)


def geometry_draws(
    seed: tf.Tensor,
    image_size: tf.Tensor,
    crop_size: tuple[int, int],
    min_scale: float,
    max_scale: float,
    scale_step: float,
) -> GeometryDraws:
    """Draws the weak view of one example; equal arguments give equal draws.

    The scale is one of `scale_factors`, the crop lies anywhere inside the scaled image, which counts as
    padded to the crop where it is smaller, and half of the crops are flipped.

    Args:
        seed: int64 [2].
        image_size: int32 [2], height and width of the image.
        crop_size: height and width of the view.
        min_scale: smallest scale.
        max_scale: largest scale.
        scale_step: distance between the scales.
    """
    factors = tf.constant(scale_factors(min_scale, max_scale, scale_step))
    # A uniform float32 is at most 1 - 2**-23, so that floor(n * uniform) stays below n.
    uniform = tf.random.stateless_uniform([4], seed)
    scaled = scaled_size(image_size, factors[tf.cast(uniform[0] * factors.shape[0], tf.int32)])
    choices = tf.maximum(scaled - crop_size, 0) + 1
    offset = tf.cast(uniform[1:3] * tf.cast(choices, tf.float32), tf.int32)
    return GeometryDraws(scaled, offset, uniform[3] <= 0.5)


# AutoGraph has nothing to convert in what is called in here, NumPy and OpenCV: they take less than half the time of
# TensorFlow's own operations.
@tf.autograph.experimental.do_not_convert
def weak_view(
    image: tf.Tensor, labels: tf.Tensor, draws: GeometryDraws, crop_size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Makes the weak view of one example.

    Args:
        image: uint8 or float32 [h, w, 3].
        labels: uint8 [h, w].
        draws: the random numbers.
        crop_size: height and width (H, W) of the view.

    Returns:
        The image uint8 [H, W, 3], 0 in the padding; the labels uint8 [H, W], each from the nearest pixel with
        aligned corners, `IGNORE_LABEL` in the padding; and valid uint8 [H, W], 1 inside the image and 0 in
        the padding.
    """

    def view(
        image: np.ndarray, labels: np.ndarray, scaled: np.ndarray, offset: np.ndarray, flip: np.bool_
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, columns = (
            _nearest(*each) for each in zip(labels.shape, scaled, offset, crop_size, strict=True)
        )
        # Mirrored by the source columns, which is cheaper than by the pixels.
        inside = np.s_[: len(rows), -len(columns) :] if flip else np.s_[: len(rows), : len(columns)]
        columns = columns[::-1] if flip else columns
        crop_labels, valid = np.full(crop_size, IGNORE_LABEL, np.uint8), np.zeros(crop_size, np.uint8)
        # Whole rows first: they are copied at once.
        crop_labels[inside] = labels.take(rows, axis=0).take(columns, axis=1)
        valid[inside] = 1
        crop = resampling.sample(image, scaled, offset, crop_size, np.uint8, bool(flip))
        return crop, crop_labels, valid

    inputs = [image, labels, draws.scaled_size, draws.offset, draws.flip]
    crop, labels, valid = tf.numpy_function(view, inputs, (tf.uint8, tf.uint8, tf.uint8))
    return (
        tf.ensure_shape(crop, [*crop_size, 3]),
        tf.ensure_shape(labels, crop_size),
        tf.ensure_shape(valid, crop_size),
    )


def _nearest(size: int, scaled: int, offset: int, crop: int) -> np.ndarray:
    """Returns, along one axis, the source index (int32 [n]) of each crop position that is inside the scaled image."""
    # In float32 and with halves rounded up, as TensorFlow's nearest-neighbor kernel does: other arithmetic
    # picks other neighbors at ties.
    step = np.float32(size - 1) / np.float32(max(scaled - 1, 1))
    position = np.arange(offset, min(offset + crop, scaled)).astype(np.float32) * step
    index = position.astype(np.int32)
    index += position - index.astype(np.float32) >= 0.5
    return np.minimum(index, size - 1)


def padded_size(size: _Size, minimum: int) -> _Size:
    """Returns the evaluation canvas of an image side: the next 16k + 1, and not below `minimum`.

    Args:
        size: height or width of the image, an int or an integer tensor of any shape.
        minimum: smallest canvas side; 0 for none.
    """
    multiple = (size + 14) // 16 * 16 + 1
    return tf.maximum(multiple, minimum) if tf.is_tensor(multiple) else max(multiple, minimum)


def evaluation_view(
    image: tf.Tensor, labels: tf.Tensor, canvas: tuple[int, int] | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads one example at the bottom and right.

    Args:
        image: uint8 or float32 [h, w, 3].
        labels: uint8 [h, w].
        canvas: height and width (H, W) to pad to, at least those of the image: ints for a static shape, or an
            int32 [2].

    Returns:
        The image in its dtype [H, W, 3], 0 in the padding, and the labels uint8 [H, W], `IGNORE_LABEL` there.
    """
    shape = canvas if isinstance(canvas, tuple) else (None, None)
    bottom, right = tf.unstack(canvas - tf.shape(labels))
    image = tf.pad(image, [[0, bottom], [0, right], [0, 0]])
    labels = tf.pad(labels, [[0, bottom], [0, right]], constant_values=IGNORE_LABEL)
    return tf.ensure_shape(image, [*shape, 3]), tf.ensure_shape(labels, shape)
