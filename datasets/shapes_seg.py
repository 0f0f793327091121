"""`shapes_seg`: the built-in data set of drawn scenes, for demonstrations and tests; needs no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

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
    seed: int = 2035
    # Number of pictures in each split.
    train: int = 2000
    val: int = 250


class ShapesSeg(tfds.core.GeneratorBasedBuilder):
    """Scenes of overlapping objects whose pattern is their class, with complete masks.

    Records stand in the order of their index (train_00000, train_00001, ...), in ArrayRecord files, so
    `tfds.data_source` reads any of them at once and "train[:40]" is 40 examples in which every class occurs.

    Example:
      import pseudoseg_tf.datasets.shapes_seg
      builder = tfds.builder("shapes_seg")
      builder.download_and_prepare()
      builder.as_data_source("train")[7]["label"]  # uint8 [96, 96, 1]
    """

    # Raise this whenever a scene changes: prepared files of another version are never read.
    VERSION = tfds.core.Version("5.0.0")
    RELEASE_NOTES = {"5.0.0": "Thin haze over every scene."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        ShapesSegConfig(name="96px", description="2000 + 250 scenes of 96x96 pixels."),
    ]

    # TFDS would derive this from the module's name, which is not where the file lies in a checkout, and
    # for that it imports a package (importlib_resources) that it does not install.
    code_path = epath.Path(__file__)

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
                class_names=list(CLASS_NAMES),
                palette=[list(color) for color in PALETTE],
                ignore_label=255,
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to fetch
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self._config
        for index in range(getattr(config, split)):
            image, label = draw_example(config.seed, index, config.size, split)
            yield index, {"image": image, "label": label[..., None], "id": f"{split}_{index:05d}"}
