"""`shapes_seg`: the built-in data set of drawn scenes, for demonstrations and tests; needs no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from .segmentation import SegmentationBuilder
from .shapes_drawing import (
    CLASS_NAMES,
    PALETTE,
    SPLITS,
    draw_example,
)

__all__ = ["CLASS_NAMES", "PALETTE", "SPLITS", "ShapesSeg", "ShapesSegConfig", "draw_example"]


@dataclasses.dataclass(eq=False)
class ShapesSegConfig(tfds.core.BuilderConfig):
    """Which scenes are drawn, how large and how many.

    A configuration of one's own needs a name of its own: the folder of the prepared files bears it.
    """

    # Side of a picture in pixels.
    size: int = 96
    # Names the scenes: another seed, other scenes.
    seed: int = 2037
    # Number of pictures in each split.
    train: int = 4000
    val: int = 250


class ShapesSeg(SegmentationBuilder):
    """Scenes of overlapping objects whose pattern is their class, with complete masks.

    Records stand in the order of their index (train_00000, train_00001, ...), in ArrayRecord files, so
    `tfds.data_source` reads any of them at once, and in "train[:16]" each class is the main object of four.

    Example:
      import pseudoseg_tf.datasets.shapes_seg
      builder = tfds.builder("shapes_seg")
      builder.download_and_prepare()
      builder.as_data_source("train")[7]["label"]  # uint8 [96, 96, 1]
    """

    # Raise this whenever a scene changes: prepared files of another version are never read.
    VERSION = tfds.core.Version("7.0.0")
    RELEASE_NOTES = {"7.0.0": "Four classes under thicker haze."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        ShapesSegConfig(name="96px", description="4000 + 250 scenes of 96x96 pixels."),
    ]

    @property
    def _config(self) -> ShapesSegConfig:
        assert isinstance(self.builder_config, ShapesSegConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        return self._segmentation_info(
            class_names=CLASS_NAMES,
            palette=PALETTE,
            background=0,
            image_format="png",
            description="Drawn scenes of textured objects on noisy backgrounds, every pixel labeled.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to fetch
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        count = getattr(self._config, split)
        return self._records(split, count, (self._example(split, index) for index in range(count)))

    def _example(self, split: str, index: int) -> dict[str, Any]:
        image, label = draw_example(self._config.seed, index, self._config.size, split)
        return {"image": image, "label": label[..., None], "id": f"{split}_{index:05d}"}
