"""`cityscapes_seg`: the finely annotated street scenes of Cityscapes, 19 classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError

from .published import PublishedBuilder, PublishedConfig, labeled_example, read_bytes

# Name, color and the label id in the annotation files of each class; a class's place is its train id.
_CLASSES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
CLASS_NAMES = tuple(name for name, _, _ in _CLASSES)
PALETTE = tuple(color for _, color, _ in _CLASSES)

# Label ids run from 0 to 33; those that are no class are not scored.
_NUM_LABEL_IDS = 34
_TRAIN_ID = np.full(256, IGNORE_LABEL, np.uint8)
_TRAIN_ID[[label_id for _, _, label_id in _CLASSES]] = np.arange(len(_CLASSES))

_IMAGE_SUFFIX, _MASK_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"


class CityscapesSeg(PublishedBuilder):
    """Frames of 2048x1024 pixels; no class is the background, and pixels of no class are 255.

    Splits `train` and `val`, of different cities, sorted by id, such as `train/jena/jena_000088_000019`; one that the
    files lack is left out.

    Example:
      import pseudoseg_tf.datasets.cityscapes_seg
      builder = tfds.builder("cityscapes_seg")
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="cityscapes"))
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        PublishedConfig(name="complete", description="2975 train and 500 val frames."),
        PublishedConfig(name="subset", description="The frames that are there.", complete=False),
    ]
    COUNTS: ClassVar = {"train": 2975, "val": 500}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip "
        "(https://www.cityscapes-dataset.com/downloads/) there, which makes leftImg8bit and gtFine."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self._segmentation_info(
            class_names=CLASS_NAMES,
            palette=PALETTE,
            background=None,
            image_format="png",
            description="Cityscapes, fine annotations: street scenes of many cities, every pixel labeled, 19 classes.",
            homepage="https://www.cityscapes-dataset.com/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = self._manual_dir(dl_manager)
        images, masks = self._existing(root / "leftImg8bit"), self._existing(root / "gtFine")
        splits = {split: _frames(images, split) for split in self.COUNTS}
        self._check_counts(splits)
        if not any(splits.values()):
            raise self._missing(
                f"{images} holds no file train/CITY/*{_IMAGE_SUFFIX} or val/CITY/*{_IMAGE_SUFFIX}"
            )
        shared = _cities(splits["train"]) & _cities(splits["val"])
        if shared:
            raise UserError(
                f"{self.name}: {images} has {', '.join(sorted(shared))} in train and in val; what is scored must "
                "not be trained on: unpack the archive again"
            )
        return {
            split: self._generate_examples(split, ids, images, masks) for split, ids in splits.items() if ids
        }

    def _generate_examples(
        self, split: str, ids: Sequence[str], images: Path, masks: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        def example(record_id: str) -> dict[str, Any]:
            mask = self._existing(masks / f"{record_id}{_MASK_SUFFIX}")
            labels = _TRAIN_ID[decode_mask(read_bytes(mask), str(mask), _NUM_LABEL_IDS)]
            return labeled_example(record_id, images / f"{record_id}{_IMAGE_SUFFIX}", labels, f"mask {mask}")

        return self._records(split, len(ids), map(example, ids))


def _frames(images: Path, split: str) -> list[str]:
    """Returns the ids of a split, sorted; none if there is no such folder."""
    paths = (images / split).glob(f"*/*{_IMAGE_SUFFIX}")
    return sorted(path.relative_to(images).as_posix().removesuffix(_IMAGE_SUFFIX) for path in paths)


def _cities(ids: Sequence[str]) -> set[str]:
    return {record_id.split("/")[1] for record_id in ids}


_CITATION = """\
@inproceedings{Cordts16,
  author = {Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and
            Benenson, Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  title = {The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016},
}"""
