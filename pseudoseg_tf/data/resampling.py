"""Antialiased bilinear sampling of a part of a scaled image: `tf.image.resize` without the scaled image.

Every column, then every row, of the result is a weighted sum of a few columns and rows of the image: its taps. This is
done in NumPy, for a strip of the result at a time, so that all that lies in between stays in the processor's cache.
Where nothing shrinks, there are two taps each, which is bilinear interpolation: pictures leave that to OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

# TensorFlow calls from as many threads as there are cores.
cv2.setNumThreads(0)

# OpenCV takes no longer sides.
_LONGEST_SIDE = 2**15 - 2
# Of the result: few enough for the processor's nearest caches, enough to hide the time of a call.
_STRIP_ROWS = 24


class Taps(NamedTuple):
    """Which pixels make each position of a crop along one axis, and with what weights.

    Attributes:
        indices: int64 [T, n], of source pixels.
        weights: float32 [T, n]; those of a position add up to 1.
    """

    indices: np.ndarray
    weights: np.ndarray


def axis_taps(size: int, scaled: int, offset: int, crop: int) -> Taps:
    """The taps of the n positions of a crop that lie inside the scaled image.

    Args:
        size: of the image along the axis.
        scaled: of the scaled image.
        offset: position of the scaled image, below `scaled`, where the crop begins.
        crop: size of the crop; n = min(crop, scaled - offset).
    """
    # In float32 and in this order, as TensorFlow's ScaleAndTranslate: else halves would be rounded otherwise.
    one, half = np.float32(1), np.float32(0.5)
    step = one / (np.float32(scaled) / np.float32(size))
    centers = (np.arange(min(crop, scaled - offset), dtype=np.float32) + half) * step + step * np.float32(
        offset
    )
    # A triangle as wide as two pixels of the image or of the scaled image, whichever are larger.
    radius = max(step, one)
    first = np.floor(centers - radius - half).astype(np.int64) + 1
    indices = first + np.arange(int(np.ceil(2 * radius)))[:, np.newaxis]
    weights = np.maximum(one - np.abs(indices.astype(np.float32) + half - centers) * (one / radius), 0)
    weights[(indices < 0) | (indices >= size)] = 0
    used = weights.any(1)
    return Taps(np.clip(indices[used], 0, size - 1), (weights / weights.sum(0))[used])


def sample(
    image: np.ndarray,
    scaled: Sequence[int] | np.ndarray,
    offset: Sequence[int] | np.ndarray,
    crop: Sequence[int] | np.ndarray,
    dtype: type[np.generic],
    flip: bool = False,
) -> np.ndarray:
    """Samples a crop out of the scaled and padded image.

    Args:
        image: uint8 or float32 [h, w, C].
        scaled: height and width of the scaled image.
        offset: row and column of it where the crop begins.
        crop: height and width (H, W) of the crop.
        dtype: of the result; np.uint8 rounds, halves to the even number.
        flip: the crop is mirrored left to right.

    Returns:
        [H, W, C]; 0 beyond the scaled image.
    """
    picture = image.dtype == dtype == np.uint8 and image.shape[2] == 3
    if picture and max(*image.shape, *crop) <= _LONGEST_SIDE and np.all(scaled >= np.array(image.shape[:2])):
        return _interpolate(image, np.array(scaled), np.array(offset), np.array(crop), flip)
    rows, columns = (
        axis_taps(*map(int, each)) for each in zip(image.shape, scaled, offset, crop, strict=False)
    )
    height, width, channels = rows.indices.shape[1], columns.indices.shape[1], image.shape[2]
    left, right = columns.indices[0, 0], columns.indices[-1, -1] + 1
    across_crop = slice(0, width)
    if flip:
        columns, across_crop = Taps(*(each[:, ::-1] for each in columns)), slice(crop[1] - width, None)
    # The channels of a pixel as columns side by side.
    beside = ((columns.indices - left)[..., np.newaxis] * channels + np.arange(channels)).reshape(
        -1, width * channels
    )
    beside_weights = np.repeat(columns.weights, channels, axis=1)
    result = np.zeros([*crop, channels], dtype)
    for begin in range(0, height, _STRIP_ROWS):
        strip = slice(begin, min(begin + _STRIP_ROWS, height))
        indices, weights = rows.indices[:, strip], rows.weights[:, strip, np.newaxis]
        top, bottom = indices[0, 0], indices[-1, -1] + 1
        source = image[top:bottom, left:right].astype(np.float32).reshape(bottom - top, -1)
        # One name for all of them: what is done with leaves the cache to the next.
        source = _weighted_sum(source, beside, beside_weights, axis=1)
        source = _weighted_sum(source, indices - top, weights, axis=0)
        if result.dtype == np.uint8:
            np.rint(source, out=source)
        result[strip, across_crop] = source.reshape(-1, width, channels)
    return result


def _interpolate(
    image: np.ndarray, scaled: np.ndarray, offset: np.ndarray, crop: np.ndarray, flip: bool
) -> np.ndarray:
    """`sample` of a uint8 [h, w, 3] that does not shrink."""
    size = np.array(image.shape[:2])
    inside = np.minimum(crop, scaled - offset)
    step = size / scaled
    # Centers of the first and last pixel of the crop, and the part of the image between their neighbors.
    first = (offset + 0.5) * step - 0.5
    last = first + (inside - 1) * step
    begin = np.maximum(np.floor(first), 0).astype(int)
    end = np.floor(last).astype(int) + 2
    # OpenCV has fast code for four channels, not for three.
    part = cv2.cvtColor(image[begin[0] : end[0], begin[1] : end[1]], cv2.COLOR_RGB2RGBA)
    origin, direction = first - begin, step.copy()
    if flip:
        origin[1], direction[1] = (last - begin)[1], -step[1]
    pixels = cv2.warpAffine(
        part,
        np.array([[direction[1], 0, origin[1]], [0, direction[0], origin[0]]]),
        inside[::-1].tolist(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    result = np.zeros([*crop, 3], np.uint8)
    columns = slice(crop[1] - inside[1], None) if flip else slice(0, inside[1])
    result[: inside[0], columns] = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return result


def _weighted_sum(x: np.ndarray, indices: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """The sum over the taps, [T, n] of one axis."""
    # Indices are in range; the mode spares NumPy a copy.
    total: np.ndarray = x.take(indices[0], axis, mode="clip")
    total *= weights[0]
    part = np.empty_like(total)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        x.take(index, axis, out=part, mode="clip")
        part *= weight
        total += part
    return total
