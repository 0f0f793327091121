"""Weights and inputs of the reference numbers, made from variable names and a seed; nothing large is stored.

The numbers were computed with weights and images that follow a rule: every array comes from a RandomState
seeded by the CRC-32 of a variable's name, or by a small number for images. The rules are data of the reference set:
constants here must not be changed to taste, and `inputs_check.json` of a set says whether they are met.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pseudoseg_tf.data.specs import IGNORE_LABEL

Array = npt.NDArray[np.float32]
# Offsets that keep training and evaluation images of one set apart.
_TRAINING, _EVALUATION = 1000, 2000
# The fill of padding and CutOut in the images as they enter the network.
PAD_VALUE = 127.5


def variable(name: str, shape: tuple[int, ...]) -> Array:
    """The value of a variable of the reference network.

    Args:
      name: TensorFlow 1 name without ":0".

    Raises:
      ValueError: there is no rule for the name.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rsplit("/", 1)[-1]
    if kind in ("weights", "depthwise_weights"):
        # A depthwise kernel [kh, kw, C, 1] has one input channel for each output.
        fan_in = np.prod(shape[:2] if kind == "depthwise_weights" else shape[:-1], dtype=int)
        values = random.standard_normal(shape) * np.sqrt(_gain(name, kind) / int(fan_in))
    elif kind in ("biases", "beta", "moving_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif kind == "gamma":
        values = (1.0 + 0.1 * random.standard_normal(shape)) * _shrink(name)
    elif kind == "moving_variance":
        values = random.uniform(0.5, 1.5, size=shape)
    else:
        raise ValueError(f"no rule for a variable named {name!r}")
    return values.astype(np.float32)


def _gain(name: str, kind: str) -> float:
    """Variance of a kernel times its fan-in."""
    if kind == "depthwise_weights":
        return 2.0
    if name.startswith("xception"):
        if "_pointwise" in name and "exit_flow/block2" not in name:
            return 0.8
        if "/shortcut/" in name:
            return 0.5
    for part, gain in (("hyper_column/", 1.5), ("logits/", 3.0)):
        if name.startswith(part):
            return gain
    return 6.0 if name.endswith("/logits/weights") else 2.0


def _shrink(name: str) -> float:
    """Factor on the last batch norm of a residual branch, which keeps deep sums small."""
    if name.startswith("resnet") and "/conv3/" in name:
        return 0.12 if name.startswith("resnet_v1_101") else 0.25
    if "separable_conv3_pointwise" in name and "exit_flow/block2" not in name:
        if "middle_flow" in name:
            return 0.2
        if name.startswith("xception"):
            return 0.6
    return 1.0


class Additional(NamedTuple):
    """Images without pixel labels, batch first: float32 pixels in [0, 255], padding and CutOut filled."""

    weak: Array
    strong: Array
    labels: npt.NDArray[np.int32]
    valid: npt.NDArray[np.int32]


class Labeled(NamedTuple):
    """Images with pixel labels."""

    image: Array
    labels: npt.NDArray[np.int32]
    valid: npt.NDArray[np.int32]


def training_inputs(
    seed: int, crop: int = 97, batch: int = 2, classes: int = 21
) -> tuple[Additional, Labeled]:
    """Both batches of a step. [batch, crop, crop, 3] images, [batch, crop, crop] labels and masks."""
    random = np.random.RandomState(_TRAINING + seed)
    additional, labeled = [], []
    for index in range(batch):
        even = index % 2 == 0
        image, labels = _image(random, crop), _labels(random, crop, classes)
        gain = random.uniform(0.55, 1.35, size=(1, 1, 3))
        shift = random.uniform(-35.0, 35.0, size=(1, 1, 3))
        strong = _quantized((image.astype(np.float64) - PAD_VALUE) * gain + PAD_VALUE + shift)
        valid = np.ones_like(labels)
        # The first image is padded below.
        below = slice(crop - crop // 6 if even else crop, None)
        _blank((image, strong), labels, valid, (below,))
        row, column, reach = random.randint(0, crop), random.randint(0, crop), crop // 8
        box = tuple(slice(max(center - reach, 0), center + reach) for center in (row, column))
        _blank((strong,), labels, valid, box)
        additional.append((image, strong, labels, valid))

        image, labels = _image(random, crop), _labels(random, crop, classes)
        valid = np.ones_like(labels)
        # The second image is padded on the right.
        right = slice(crop if even else crop - crop // 7, None)
        _blank((image,), labels, valid, (slice(None), right))
        labeled.append((image, labels, valid))
    return Additional(*map(np.stack, zip(*additional, strict=True))), Labeled(
        *map(np.stack, zip(*labeled, strict=True))
    )


def evaluation_images(seed: int, crop: int = 97, batch: int = 2) -> Array:
    """float32 [batch, crop, crop, 3] in [0, 255]."""
    random = np.random.RandomState(_EVALUATION + seed)
    return np.stack([_image(random, crop) for _ in range(batch)])


def image_labels(labels: npt.NDArray[np.int32], classes: int = 21) -> Array:
    """Which foreground classes occur in each label map: float32 [batch, classes - 1]."""
    present = [[np.any(each == k) for k in range(1, classes)] for each in labels]
    return np.array(present, np.float32)


def _blank(
    images: tuple[Array, ...],
    labels: npt.NDArray[np.int32],
    valid: npt.NDArray[np.int32],
    region: tuple[slice, ...],
) -> None:
    for image in images:
        image[region] = PAD_VALUE
    labels[region] = IGNORE_LABEL
    valid[region] = 0


def _image(random: np.random.RandomState, side: int) -> Array:
    """Flat color, two coarse patterns and noise."""
    pixels = random.uniform(60.0, 195.0, size=(1, 1, 3))
    for cells, reach in ((4, 70.0), (9, 45.0)):
        pixels = pixels + _enlarged(random.uniform(-reach, reach, size=(cells, cells, 3)), side)
    return _quantized(pixels + random.uniform(-18.0, 18.0, size=(side, side, 3)))


def _enlarged(grid: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Bilinear, corners aligned: [n, n, 3] -> [side, side, 3]. In this order of operations, to the last bit."""
    cells = len(grid)
    position = np.arange(side) * ((cells - 1.0) / (side - 1.0))
    left = np.minimum(np.floor(position).astype(int), cells - 2)
    rest = position - left
    across, down = rest[None, :, None], rest[:, None, None]

    def row(index: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
        result: npt.NDArray[np.float64] = (
            grid[index][:, left] * (1 - across) + grid[index][:, left + 1] * across
        )
        return result

    return row(left) * (1 - down) + row(left + 1) * down


def _quantized(pixels: npt.NDArray[np.float64]) -> Array:
    """Clipped to [0, 255] and rounded to 1/64, which float32 holds exactly."""
    return (np.floor(np.clip(pixels, 0.0, 255.0) * 64.0 + 0.5) / 64.0).astype(np.float32)


def _labels(random: np.random.RandomState, side: int, classes: int) -> npt.NDArray[np.int32]:
    """Background, and four boxes of different classes with an ignored seam."""
    labels = np.zeros((side, side), np.int32)
    for label in 1 + random.permutation(classes - 1)[:4]:
        height, width = (int(random.randint(side // 5, side // 2)) for _ in range(2))
        top, left = int(random.randint(0, side - height)), int(random.randint(0, side - width))
        labels[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1] = IGNORE_LABEL
        labels[top : top + height, left : left + width] = label
    return labels
