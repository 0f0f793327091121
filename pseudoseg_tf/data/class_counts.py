"""How many images and pixels of each class there are, in a pool and in what was drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.specs import Source
from pseudoseg_tf.progress import Progress


def count_pixels(source: Source) -> np.ndarray:
    """Decodes the mask of every record.

    Returns:
      int64 [records, classes], the pixels of each class in each mask; ignored pixels count nowhere.

    Raises:
      UserError: a mask is damaged or holds other values than class ids.
    """
    num_classes = source.info.num_classes
    pixels = np.zeros((len(source), num_classes), np.int64)
    with Progress(len(source), "counting the pixels of each class") as progress:
        for index in range(len(source)):
            record = source.read(index)
            assert record.mask is not None  # The source was asked for masks.
            labels = decode_mask(record.mask, record.id, num_classes, record.encoding)
            pixels[index] = np.bincount(labels.ravel(), minlength=256)[:num_classes]
            progress.update()
    return pixels


def table(class_names: Sequence[str], columns: Mapping[str, np.ndarray]) -> str:
    """Returns lines of text: for each class and column, the images that show it and its pixels in them.

    Args:
      class_names: one name per class.
      columns: by heading, what `count_pixels` returned, or rows of it.
    """
    width = max(map(len, ("class", *class_names)))
    blocks = [[f"{name:<{width}}" for name in ("", "class", *class_names)]]
    for heading, pixels in columns.items():
        images = ["images", *map(str, (pixels > 0).sum(axis=0))]
        sums = ["pixels", *(f"{count:,}" for count in pixels.sum(axis=0))]
        first = max(map(len, images))
        second = max(*map(len, sums), len(heading) - first - 2)
        rows = [f"{left:>{first}}  {right:>{second}}" for left, right in zip(images, sums, strict=True)]
        blocks.append([f"{heading:>{first + 2 + second}}", *rows])
    return "\n".join("   ".join(cells) for cells in zip(*blocks, strict=True))
