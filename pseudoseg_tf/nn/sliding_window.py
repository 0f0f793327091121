"""Class probabilities of images larger than the network should see at once: the mean over overlapping windows."""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf.nn.layers import resize_align_corners
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.nn.pyramid import Side, height_and_width


def window_probabilities(
    model: PseudoSegModel, images: tf.Tensor, window: tuple[int, int], overlap: float
) -> tf.Tensor:
    """Runs the model on every window of the images; each pixel gets the mean over the windows that hold it.

    In each direction windows begin at 0, s, 2s, ..., s being the part of the window that does not overlap the next
    one, cut off to whole pixels; the last window is moved back to end where the image does. Of each window the
    logits are resized to the window (bilinear, aligned corners) before the softmax. One window is predicted after
    the other, so that memory does not grow with their number.

    Args:
        model: called in inference mode.
        images: normalized, float [B, H, W, 3]; a smaller side than the window's is padded with zeros, the mean
            pixel, at the bottom and right.
        window: height and width, each 16k+1.
        overlap: of neighboring windows, as part of a window; from 0 to less than 1.

    Returns:
        float32 [B, H, W, C].
    """
    sides = height_and_width(images)
    padded_sides = [_at_least(side, least) for side, least in zip(sides, window, strict=True)]
    border = [[0, padded - side] for padded, side in zip(padded_sides, sides, strict=True)]
    padded = tf.pad(images, [[0, 0], *border, [0, 0]])
    rows, columns = (
        window_starts(side, length, overlap) for side, length in zip(padded_sides, window, strict=True)
    )

    def add_window(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        top, left = rows[index // tf.size(columns)], columns[index % tf.size(columns)]
        seen = tf.slice(padded, [0, top, left, 0], [-1, *window, -1])
        seen = tf.ensure_shape(seen, [images.shape[0], *window, images.shape[3]])
        probabilities = tf.nn.softmax(resize_align_corners(model(seen, training=False), window))
        around = [
            [start, side - start - length]
            for start, side, length in zip((top, left), padded_sides, window, strict=True)
        ]
        return index + 1, total + tf.pad(probabilities, [[0, 0], *around, [0, 0]])

    windows = tf.size(rows) * tf.size(columns)
    total = tf.zeros([tf.shape(images)[0], *padded_sides, model.num_classes])
    _, total = tf.while_loop(
        lambda index, _: index < windows, add_window, (tf.constant(0), total), parallel_iterations=1
    )
    in_rows, in_columns = (
        _windows_at(starts, length, side)
        for starts, length, side in zip((rows, columns), window, padded_sides, strict=True)
    )
    probabilities = total / (in_rows[:, tf.newaxis] * in_columns)[..., tf.newaxis]
    return probabilities[:, : sides[0], : sides[1]]


def window_starts(side: Side, window: int, overlap: float) -> tf.Tensor:
    """Where the windows of one direction begin, int32 [n]; ``side`` is at least ``window``."""
    stride = window_stride(window, overlap)
    count = -(-(side - window) // stride) + 1
    return tf.minimum(tf.range(count) * stride, side - window)


def window_stride(window: int, overlap: float) -> int:
    """Pixels from one window to the next."""
    return max(1, int(window * (1 - overlap)))


def _windows_at(starts: tf.Tensor, window: int, side: Side) -> tf.Tensor:
    """How many windows hold each row or column: float32 [side]."""
    position = tf.range(side)
    held = (position >= starts[:, tf.newaxis]) & (position < starts[:, tf.newaxis] + window)
    return tf.reduce_sum(tf.cast(held, tf.float32), axis=0)


def _at_least(side: Side, least: int) -> Side:
    return tf.maximum(side, least) if tf.is_tensor(side) else max(side, least)
