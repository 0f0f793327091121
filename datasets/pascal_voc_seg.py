"""`pascal_voc_seg`: PASCAL VOC 2012, with masks of SBD (Semantic Boundaries Dataset) for its `train_aug` list."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.io
import tensorflow_datasets as tfds

from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.specs import IGNORE_LABEL, voc_palette
from pseudoseg_tf.data.splits import check_disjoint, read_ids
from pseudoseg_tf.errors import UserError

from .published import PublishedBuilder, PublishedConfig, labeled_example, read_bytes

CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

# Those of SBD have some ten thousand bytes. What is packed in a file can be a thousand times as large.
_MAX_MAT_BYTES = 1 << 20


class PascalVocSeg(PublishedBuilder):
    """The 21 classes of PASCAL VOC 2012, background included, with 255 along the outlines of objects.

    Splits: `train`, `val` and `trainval` as published, and `train_aug`: the images of VOC's train list and of both
    lists of SBD, without those of VOC's val list. Masks are VOC's where VOC has one, else SBD's, which have no 255.

    Example:
      import pseudoseg_tf.datasets.pascal_voc_seg
      builder = tfds.builder("pascal_voc_seg")
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="voc"))
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        PublishedConfig(
            name="complete", description="1464 train, 1449 val, 2913 trainval, 10582 train_aug images."
        ),
        PublishedConfig(name="subset", description="The images that the given lists name.", complete=False),
    ]
    COUNTS: ClassVar = {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "unpack VOCtrainval_11-May-2012.tar (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/) there, which makes "
        "VOCdevkit/VOC2012, and benchmark.tgz of SBD (http://home.bharathh.info/pubs/codes/SBD/download.html), which "
        "makes benchmark_RELEASE/dataset; or put a folder of SBD's masks as PNG at "
        "VOCdevkit/VOC2012/SegmentationClassAug."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self._segmentation_info(
            class_names=CLASS_NAMES,
            palette=voc_palette(len(CLASS_NAMES)),
            background=0,
            image_format="jpeg",
            description=(
                "PASCAL VOC 2012 semantic segmentation, 20 classes of objects and background, and the additional "
                "masks of the Semantic Boundaries Dataset."
            ),
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        manual_dir = self._manual_dir(dl_manager)
        devkit = self._existing(manual_dir / "VOCdevkit" / "VOC2012")
        additional = self._additional_masks(manual_dir, devkit)
        splits = self._lists(devkit, additional)
        self._check_counts(splits)
        check_disjoint(splits["train_aug"], f"{self.name}: train_aug", splits["val"], "val")
        return {
            split: self._generate_examples(split, ids, devkit, additional) for split, ids in splits.items()
        }

    def _lists(self, devkit: Path, additional: _Masks) -> dict[str, list[str]]:
        """Returns the ids of each split; those of train_aug sorted, if no list gives their order."""
        folder = self._existing(devkit / "ImageSets" / "Segmentation")
        lists = {
            split: read_ids(self._existing(folder / f"{split}.txt"), self.name)
            for split in ("train", "val", "trainval")
        }
        if (folder / "train_aug.txt").is_file():
            lists["train_aug"] = read_ids(folder / "train_aug.txt", self.name)
        else:
            lists["train_aug"] = sorted({*lists["train"], *additional.ids()} - {*lists["val"]})
        return lists

    def _additional_masks(self, manual_dir: Path, devkit: Path) -> _Masks:
        """Returns where the masks are that VOC does not have."""
        sbd, converted = manual_dir / "benchmark_RELEASE" / "dataset", devkit / "SegmentationClassAug"
        if sbd.is_dir():
            return _SbdMasks(sbd, self._existing(sbd / "cls"))
        if converted.is_dir():
            return _PngMasks(converted)
        raise self._missing(f"neither {sbd} nor {converted} exists")

    def _generate_examples(
        self, split: str, ids: Sequence[str], devkit: Path, additional: _Masks
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        fine = _PngMasks(devkit / "SegmentationClass")

        def example(record_id: str) -> dict[str, Any]:
            masks = fine if fine.path(record_id).is_file() or split != "train_aug" else additional
            path = masks.path(record_id)
            image = self._existing(devkit / "JPEGImages" / f"{record_id}.jpg")
            return labeled_example(record_id, image, masks.read(self._existing(path)), f"mask {path}")

        return self._records(split, len(ids), map(example, ids))


class _Masks(Protocol):
    """A folder of masks by id."""

    def ids(self) -> Sequence[str]:
        """The id of each image that has one."""

    def path(self, record_id: str) -> Path:
        """Where the mask of an id is, or would be."""

    def read(self, path: Path) -> np.ndarray:
        """Returns uint8 [height, width] of class ids and 255; raises UserError if the file is not such a mask."""


class _PngMasks:
    """A folder of PNG files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ids(self) -> Sequence[str]:
        return [path.stem for path in self._folder.glob("*.png")]

    def path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.png"

    def read(self, path: Path) -> np.ndarray:
        return decode_mask(read_bytes(path), str(path), len(CLASS_NAMES))


class _SbdMasks:
    """The .mat files and lists of SBD."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self._dataset = dataset
        self._folder = folder

    def ids(self) -> Sequence[str]:
        return [
            record_id
            for name in ("train.txt", "val.txt")
            for record_id in read_ids(self._dataset / name, "pascal_voc_seg")
        ]

    def path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.mat"

    def read(self, path: Path) -> np.ndarray:
        content = read_bytes(path)
        if len(content) > _MAX_MAT_BYTES:
            raise UserError(
                f"mask {path}: {len(content):,} bytes, at most {_MAX_MAT_BYTES:,} are read; unpack SBD's archive again"
            )
        try:
            truth = scipy.io.loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]
            labels = np.asarray(truth["Segmentation"][0, 0])
        except Exception as error:  # scipy raises many types for damaged content.
            raise UserError(
                f"mask {path}: no .mat file with GTcls.Segmentation ({type(error).__name__}); "
                "unpack SBD's archive again"
            ) from error
        known = labels.ndim == 2 and labels.dtype == np.uint8
        if not known or ((labels >= len(CLASS_NAMES)) & (labels != IGNORE_LABEL)).any():
            values = ", ".join(map(str, np.unique(labels)[:12]))
            raise UserError(
                f"mask {path}: GTcls.Segmentation is {labels.dtype} {list(labels.shape)} of the values {values}; it "
                f"must be uint8 [height, width] of 0 to {len(CLASS_NAMES) - 1}; unpack SBD's archive again"
            )
        return labels


_CITATION = """\
@article{Everingham15,
  author = {Everingham, M. and Eslami, S. M. A. and Van~Gool, L. and Williams, C. K. I. and Winn, J. and Zisserman, A.},
  title = {The {PASCAL} Visual Object Classes Challenge: A Retrospective},
  journal = {International Journal of Computer Vision},
  year = {2015},
  volume = {111},
  number = {1},
  pages = {98--136},
}
@inproceedings{Hariharan11,
  author = {Hariharan, Bharath and Arbelaez, Pablo and Bourdev, Lubomir and Maji, Subhransu and Malik, Jitendra},
  title = {Semantic Contours from Inverse Detectors},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2011},
}"""
