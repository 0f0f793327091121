"""Signs that a mask was changed by an image editor: rims from resizing with interpolation, renumbered palettes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import PngImagePlugin

from pseudoseg_tf.data.specs import IGNORE_LABEL, Color

# Masks of VOC, COCO and Cityscapes have such a rim on at most 4 % of their outlines, also when shrunk by nearest
# neighbor; interpolated ids have one on a quarter or more, interpolated colors, brought back to ids, on 15 % or more.
_RIM_SHARE = 1 / 8
# Fewer may be a matter of the picture.
_LEAST_RIMS = 30


def rim_share(labels: np.ndarray) -> float:
    """Returns on which part of its outlines a mask has a third class between two others, one pixel thin.

    Args:
      labels: uint8 [height, width]; outlines of ignored regions do not count.

    Returns:
      0 to 1; 0 where it is too little to mean anything.
    """
    outlines = rims = 0
    for rows in (labels, labels.T):
        before, between, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        counts = (before != after) & (before != IGNORE_LABEL) & (after != IGNORE_LABEL)
        counts &= between != IGNORE_LABEL
        outlines += int(counts.sum())
        rims += int((counts & (between != before) & (between != after)).sum())
    share = rims / max(1, outlines)
    return share if rims >= _LEAST_RIMS and share > _RIM_SHARE else 0.0


def palette_of(mask: bytes, labels: np.ndarray) -> dict[int, Color]:
    """Returns the color of each class id of a palette PNG; {} of other masks, and of a palette that is grey.

    Args:
      mask: a PNG file that was decoded without error.
      labels: uint8 [height, width], its palette indices.
    """
    image = PngImagePlugin.PngImageFile(io.BytesIO(mask))
    if image.mode != "P":
        return {}
    values = image.getpalette("RGB") or []
    colors = list(zip(values[0::3], values[1::3], values[2::3], strict=True))
    used = {int(label): colors[label] for label in np.unique(labels) if label < len(colors)}
    used.pop(IGNORE_LABEL, None)
    grey = all(red == green == blue for red, green, blue in used.values())
    return {} if grey else used


def other_color(colors: Mapping[int, Color], known: Mapping[int, Color]) -> int | None:
    """Returns the first class id that has different colors in two palettes; None if there is none."""
    return next((label for label, color in colors.items() if known.get(label, color) != color), None)
