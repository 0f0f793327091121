"""The strong view: color jitter and CutOut on a batch of weak views (paper section 3.2; SimCLR's jitter).

The pixels stay where the weak view put them, so that a pseudo label of the weak view fits the strong one.
The random numbers are drawn per example in the input pipeline (`strong_draws`); `strong_view` only applies
them, to the whole batch at once, and can be compiled with XLA inside the training step.

One difference to the reference: it jitters the scaled image before cropping, so that contrast turns about
the mean color of that image; here it turns about the mean of the crop's valid pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Strength 1: brightness shifts by up to 0.5, contrast and saturation scale by 0.5 to 1.5, hue turns by up to
# a quarter of the circle.
_MAX_CHANGE = (0.5, 0.5, 0.5, 0.25)
_NEUTRAL = (0.0, 1.0, 1.0, 0.0)

# The numbers of the operations in `StrongDraws.order`, and of their amounts in `StrongDraws.jitter`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_MEAN_PIXEL = 127.5


class StrongDraws(NamedTuple):
    """What the strong view leaves to chance; with a leading batch dimension in `strong_view`.

    Attributes:
        jitter: float32 [4]: brightness shift (of 1), contrast factor, saturation factor, hue shift (turns).
        order: int32 [4]: the operations by their position in `jitter`, in the order they are applied.
        cutout_center: int32 [2]: row and column about which CutOut removes a box.
    """

    jitter: tf.Tensor
    order: tf.Tensor
    cutout_center: tf.Tensor


def strong_draws(seed: tf.Tensor, crop_size: tuple[int, int], jitter_strength: float) -> StrongDraws:
    """Draws the strong view of one example; equal arguments give equal draws.

    Args:
        seed: int64 [2].
        crop_size: height and width of the view; the CutOut center lies anywhere in it.
        jitter_strength: factor on the largest color changes; 0 leaves the colors alone, 1 is the reference.
    """
    uniform = tf.random.stateless_uniform([10], seed)
    jitter = _NEUTRAL + jitter_strength * tf.constant(_MAX_CHANGE) * (2 * uniform[:4] - 1)
    # Beyond strength 2 a contrast or saturation factor would be negative: an inverted picture.
    jitter = tf.concat([jitter[:1], tf.maximum(jitter[1:3], 0), jitter[3:]], axis=0)
    center = tf.cast(uniform[8:] * tf.cast(crop_size, tf.float32), tf.int32)
    return StrongDraws(jitter, tf.argsort(uniform[4:8], stable=True), center)


def strong_view(
    images: tf.Tensor, valid: tf.Tensor, draws: StrongDraws, cutout: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Jitters the colors of a batch and cuts one box out of each image.

    Brightness, contrast, saturation and hue change in the drawn order, as in `tf.image`, clipped to [0, 1]
    after each.

    Args:
        images: float32 [B, H, W, 3] in [0, 255].
        valid: [B, H, W], 1 inside the image and 0 in the padding; any dtype.
        draws: the random numbers, each with a leading dimension B.
        cutout: half the side of the box; it is clipped at the border. 0: no box.

    Returns:
        The images float32 [B, H, W, 3] in [0, 255], and valid [B, H, W] in its dtype with 0 in the box too.
        Where valid is 0 the image is the mean pixel.
    """
    images = 255 * color_jitter(images / 255, valid, draws.jitter, draws.order)
    if cutout:
        valid *= tf.cast(~cutout_box(draws.cutout_center, tf.shape(valid)[1:], cutout), valid.dtype)
    return tf.where(valid[..., tf.newaxis] > 0, images, _MEAN_PIXEL), valid


def cutout_box(center: tf.Tensor, size: tf.Tensor, half_side: int) -> tf.Tensor:
    """Returns bool [B, H, W]: rows center - half_side to center + half_side (not included), columns alike.

    Args:
        center: int32 [B, 2].
        size: int32 [2], H and W.
        half_side: half the side of the box.
    """

    def inside(axis: int) -> tf.Tensor:
        distance = tf.range(size[axis]) - center[:, axis, tf.newaxis]
        return (distance >= -half_side) & (distance < half_side)

    return inside(0)[:, :, tf.newaxis] & inside(1)[:, tf.newaxis, :]


def color_jitter(images: tf.Tensor, valid: tf.Tensor, jitter: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Applies the four color operations to a batch, each example in its own order.

    Each of the four positions is one affine map and one map in HSV; an example for which a position is the
    other kind passes through unchanged. So a batch of any orders runs the same operations.

    Args:
        images: float32 [B, H, W, 3] in [0, 1].
        valid: [B, H, W], nonzero where a pixel counts for the mean that contrast turns about.
        jitter: float32 [B, 4], see `StrongDraws`.
        order: int32 [B, 4], see `StrongDraws`.

    Returns:
        float32 [B, H, W, 3] in [0, 1].
    """
    weight = tf.cast(valid, tf.float32)
    weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, axis=[1, 2], keepdims=True))
    # Planes [B, H, W] rather than a last axis of 3: the ops below then run over long contiguous rows.
    planes = tf.unstack(images, axis=-1)
    for operation in tf.unstack(order, axis=1):
        shift, contrast, saturation, hue = (
            tf.where(operation == number, amount, neutral)[:, tf.newaxis, tf.newaxis]
            for number, (amount, neutral) in enumerate(zip(tf.unstack(jitter, axis=1), _NEUTRAL, strict=True))
        )
        planes = [_adjust_brightness_contrast(plane, weight, shift, contrast) for plane in planes]
        is_hsv = (operation >= SATURATION)[:, tf.newaxis, tf.newaxis]
        adjusted = _adjust_saturation_hue(planes, saturation, hue)
        planes = [tf.where(is_hsv, new, old) for new, old in zip(adjusted, planes, strict=True)]
    return tf.stack(planes, axis=-1)


def _adjust_brightness_contrast(
    plane: tf.Tensor, weight: tf.Tensor, shift: tf.Tensor, contrast: tf.Tensor
) -> tf.Tensor:
    """Scales a plane [B, H, W] about its weighted mean and shifts it; shift and contrast are [B, 1, 1]."""
    mean = tf.reduce_sum(plane * weight, axis=[1, 2], keepdims=True)
    return tf.clip_by_value(plane * contrast + (mean * (1 - contrast) + shift), 0, 1)


def _adjust_saturation_hue(planes: list[tf.Tensor], saturation: tf.Tensor, hue: tf.Tensor) -> list[tf.Tensor]:
    """Multiplies the saturation and turns the hue of planes [B, H, W] in [0, 1]; the amounts are [B, 1, 1].

    The same as a way to HSV and back with the saturation clipped to 1, without ever dividing by the value:
    with v = max(r, g, b), a channel is v minus chroma times a function of the hue alone, and scaling the
    saturation scales the chroma, which reaches v where the saturation reaches 1.
    """
    red, green, blue = planes
    value = tf.maximum(red, tf.maximum(green, blue))
    chroma = value - tf.minimum(red, tf.minimum(green, blue))
    # Hue in sixths of the circle: 0 red, 2 green, 4 blue.
    sextant = tf.where(
        red == value,
        green - blue,
        tf.where(green == value, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    sextant = tf.math.divide_no_nan(sextant, chroma) + 6 * hue
    sextant -= 6 * tf.floor(sextant / 6)
    chroma = tf.minimum(chroma * saturation, value)
    return [
        value - chroma * tf.clip_by_value(2 - tf.abs(sextant - 3), 0, 1),
        value - chroma * tf.clip_by_value(tf.abs(sextant - 2) - 1, 0, 1),
        value - chroma * tf.clip_by_value(tf.abs(sextant - 4) - 1, 0, 1),
    ]
