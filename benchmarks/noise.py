"""Pictures that stand for photographs where only their size and their file format matter."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import DatasetInfo, Record, voc_palette

# Cells of the noise along each side: what JPEG makes of it is about as large as a photograph.
_CELLS = 40


class NoiseSource:
    """A few JPEG pictures of smooth noise with PNG masks, in memory."""

    has_masks = True

    def __init__(self, info: DatasetInfo, count: int, size: tuple[int, int], seed: int) -> None:
        """Draws ``count`` pictures of ``size`` (height, width)."""
        random = np.random.default_rng(seed)
        self.info = info
        self.ids = [f"noise-{seed}-{index}" for index in range(count)]
        self._files = []
        for _ in range(count):
            cells = random.integers(0, 256, (_CELLS, _CELLS, 3), np.uint8)
            image = Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC)
            areas = random.integers(0, info.num_classes, (5, 5)).astype(np.uint8)
            mask = Image.fromarray(areas).resize(size[::-1], Image.Resampling.NEAREST)
            self._files.append((_encoded(image, "JPEG"), _encoded(mask, "PNG")))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        image, mask = self._files[index]
        return Record(self.ids[index], image, mask, None)


def noise_sources(num_classes: int, count: int = 16, size: tuple[int, int] = (375, 500)) -> Sources:
    """Labeled, unlabeled and validation pictures of VOC's usual size."""
    info = DatasetInfo(
        tuple(f"class {index}" for index in range(num_classes)), voc_palette(num_classes), "noise"
    )
    labeled, unlabeled, val = (NoiseSource(info, count, size, seed) for seed in range(3))
    return Sources(info, labeled, unlabeled, val)


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()
