"""The weak view: scale, pad, crop and flip of an image with its labels; and the padding of evaluation.

Before either, images may be resized to a range of sizes.

The reference resizes the whole image (antialiased, half-pixel centers), pads it at the bottom and right and
cuts the crop out. Here the three are one sampling of exactly the crop, so the cost does not grow with the
scale and the scaled image never exists. All random numbers come in as `GeometryDraws`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image

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
    height, width = tf.unstack(tf.shape(labels))
    size = range_size(tf.shape(labels), minimum, maximum, factor)
    rows, _ = _nearest(height, size[0], 0, size[0])
    columns, _ = _nearest(width, size[1], 0, size[1])
    return resize_image(image[tf.newaxis], size)[0], tf.gather(tf.gather(labels, rows), columns, axis=1)


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


def sample_image(image: tf.Tensor, draws: GeometryDraws, crop_size: tuple[int, int]) -> tf.Tensor:
    """Samples the crop out of the scaled and padded image, neither rounded nor flipped.

    Args:
        image: uint8 or float32 [h, w, 3].
        draws: where the crop lies.
        crop_size: height and width (H, W) of the crop.

    Returns:
        float32 [H, W, 3]; 0 in the padding.
    """
    # The antialiased tf.image.resize is this op without a translation: the same weights at each output pixel.
    scale = tf.cast(draws.scaled_size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    crop = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=crop_size,
        scale=scale,
        translation=-tf.cast(draws.offset, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(crop[0], [*crop_size, 3])


@tf.autograph.experimental.do_not_convert
def sample_image_8bit(image: tf.Tensor, draws: GeometryDraws, crop_size: tuple[int, int]) -> tf.Tensor:
    """As `sample_image`, but in Pillow's 8-bit arithmetic, which takes a third of the time.

    Args:
        image: uint8 [h, w, 3].
        draws: where the crop lies.
        crop_size: height and width (H, W) of the crop.

    Returns:
        uint8 [H, W, 3]; 0 in the padding. A pixel differs by at most 1 from the rounded result of `sample_image`.
    """

    def sample(image: np.ndarray, scaled: np.ndarray, offset: np.ndarray) -> np.ndarray:
        size = np.minimum(crop_size, scaled - offset)
        ratio = image.shape[:2] / scaled
        top, left = offset * ratio
        bottom, right = np.minimum((offset + size) * ratio, image.shape[:2])
        part = Image.fromarray(image).resize(
            (int(size[1]), int(size[0])), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
        )
        crop = np.zeros([*crop_size, 3], np.uint8)
        crop[: size[0], : size[1]] = part
        return crop

    crop = tf.numpy_function(sample, [image, draws.scaled_size, draws.offset], tf.uint8)
    return tf.ensure_shape(crop, [*crop_size, 3])


def weak_view(
    image: tf.Tensor,
    labels: tf.Tensor,
    draws: GeometryDraws,
    crop_size: tuple[int, int],
    sampling: Literal["exact", "fast"] = "exact",
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Makes the weak view of one example.

    Args:
        image: uint8 or float32 [h, w, 3].
        labels: uint8 [h, w].
        draws: the random numbers.
        crop_size: height and width (H, W) of the view.
        sampling: "exact" by `sample_image`, "fast" by `sample_image_8bit`, for uint8 images.

    Returns:
        The image uint8 [H, W, 3], 0 in the padding; the labels uint8 [H, W], each from the nearest pixel with
        aligned corners, `IGNORE_LABEL` in the padding; and valid uint8 [H, W], 1 inside the image and 0 in
        the padding.
    """
    rows, row_valid = _nearest(tf.shape(labels)[0], draws.scaled_size[0], draws.offset[0], crop_size[0])
    columns, column_valid = _nearest(tf.shape(labels)[1], draws.scaled_size[1], draws.offset[1], crop_size[1])
    # Mirrored by the source columns, which is cheaper than by the pixels.
    columns, column_valid = (_mirrored(draws, each, axis=0) for each in (columns, column_valid))
    valid = row_valid[:, tf.newaxis] & column_valid
    # Both times whole rows are copied; single pixels would take several times as long.
    labels = tf.transpose(tf.gather(tf.transpose(tf.gather(labels, rows)), columns))
    labels = tf.where(valid, labels, tf.constant(IGNORE_LABEL, tf.uint8))
    if sampling == "fast":
        image = sample_image_8bit(image, draws, crop_size)
    else:
        image = tf.cast(tf.round(sample_image(image, draws, crop_size)), tf.uint8)
    return _mirrored(draws, image, axis=1), labels, tf.cast(valid, tf.uint8)


def _mirrored(draws: GeometryDraws, x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cond(draws.flip, lambda: tf.reverse(x, [axis]), lambda: x)


def _nearest(
    size: tf.Tensor, scaled: tf.Tensor, offset: int | tf.Tensor, crop: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns, along one axis, the source index (int32 [crop]) of each crop position, and whether it is inside."""
    target = tf.range(crop) + offset
    # In float32 and with halves rounded up, as TensorFlow's nearest-neighbor kernel does: other arithmetic
    # picks other neighbors at ties.
    step = tf.cast(size - 1, tf.float32) / tf.cast(tf.maximum(scaled - 1, 1), tf.float32)
    position = tf.cast(target, tf.float32) * step
    index = tf.cast(position, tf.int32)
    index += tf.cast(position - tf.cast(index, tf.float32) >= 0.5, tf.int32)
    return tf.minimum(index, size - 1), target < scaled


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
