"""`shapes_seg`: the built-in data set of drawn scenes, for demonstrations and tests; needs no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from .shapes_drawing import (
    CLASS_NAMES,
    PALETTE,
    PATTERNS,
    PRETRAINING_CLASS_NAMES,
    PRETRAINING_PATTERNS,
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
    seed: int = 2026
    # Number of pictures in each split.
    train: int = 600
    val: int = 150
    # Draw other patterns instead, none of which is a class of the data set: to learn first features from.
    pretraining: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        return PRETRAINING_CLASS_NAMES if self.pretraining else CLASS_NAMES


class ShapesSeg(tfds.core.GeneratorBasedBuilder):
    """Scenes of overlapping objects whose pattern is their class, with complete masks.

    Records stand in the order of their index (train_00000, train_00001, ...), in ArrayRecord files, so
    `tfds.data_source` reads any of them at once and "train[:20]" is 20 examples in which every class occurs.

    Example:
      import pseudoseg_tf.datasets.shapes_seg
      builder = tfds.builder("shapes_seg")
      builder.download_and_prepare()
      builder.as_data_source("train")[7]["label"]  # uint8 [96, 96, 1]
    """

    # Raise this whenever a scene changes: prepared files of another version are never read.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        ShapesSegConfig(name="96px", description="600 + 150 scenes of 96x96 pixels."),
        ShapesSegConfig(
            name="pretraining",
            description="900 + 60 scenes of 96x96 pixels with other patterns, to learn first features from.",
            train=900,
            val=60,
            pretraining=True,
        ),
    ]

    # TFDS would derive this from the module's name, which is not where the file lies in a checkout, and
    # for that it imports a package (importlib_resources) that it does not install.
    code_path = tfds.core.as_path(__file__)

    def __init__(self, *, file_format: str | None = "array_record", **kwargs: Any) -> None:
        super().__init__(file_format=file_format, **kwargs)

    @property
    def _config(self) -> ShapesSegConfig:
        assert isinstance(self.builder_config, ShapesSegConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn scenes of textured objects on noisy backgrounds, every pixel labeled.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "id": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(
                class_names=list(self._config.class_names),
                palette=[list(color) for color in PALETTE[: len(self._config.class_names)]],
                ignore_label=255,
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to fetch
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self._config
        patterns = PRETRAINING_PATTERNS if config.pretraining else PATTERNS
        for index in range(getattr(config, split)):
            image, label = draw_example(config.seed, index, config.size, split, patterns)
            yield index, {"image": image, "label": label[..., None], "id": f"{split}_{index:05d}"}
