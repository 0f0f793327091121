"""`coco_seg`: COCO 2017, its objects painted into one mask for each image, and its images without annotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from pseudoseg_tf.data.specs import voc_palette
from pseudoseg_tf.progress import Progress

from . import pascal_voc_seg
from .coco_annotations import Annotations
from .published import PublishedBuilder, PublishedConfig, labeled_example, whole_image
from .segmentation import OptionalLabel

# In order of the category ids, which run from 1 to 90 with gaps.
OBJECT_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog"),
    *("horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag"),
    *("tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat"),
    *("baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup"),
    *("fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot"),
    *("hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table"),
    *("toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven"),
    *("toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
# What VOC calls otherwise; the other classes of VOC have the same names.
_VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "couch": "sofa",
    "tv": "tvmonitor",
}


@dataclasses.dataclass(eq=False)
class CocoSegConfig(PublishedConfig):
    """Which classes the masks have."""

    # The 20 classes of VOC in VOC's order instead of the 80 of COCO. Objects of other classes are not painted.
    voc_classes: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id, the background first."""
        return pascal_voc_seg.CLASS_NAMES if self.voc_classes else ("background", *OBJECT_NAMES)

    def class_of(self, object_name: str) -> int | None:
        """Returns the class id of one of OBJECT_NAMES; None: it is not painted."""
        name = _VOC_NAMES.get(object_name, object_name) if self.voc_classes else object_name
        return self.class_names.index(name) if name in self.class_names else None


class CocoSeg(PublishedBuilder):
    """COCO's objects as semantic segmentation: where several overlap, the smallest is seen.

    Regions that are annotated as a crowd are 255 where no single object lies on them. What is no object is background.
    Splits `train`, `val`, and `unlabeled`, if its folder is there, whose labels are None; sorted by id, such as
    `train2017/000000177254`.

    Example:
      import pseudoseg_tf.datasets.coco_seg
      builder = tfds.builder("coco_seg/coco81")
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="coco"))
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS reads the class attribute)
    BUILDER_CONFIGS = [  # noqa: RUF012
        CocoSegConfig(
            name=name + suffix, description=description + extent, complete=not suffix, voc_classes=voc
        )
        for name, description, voc in (
            ("coco81", "Background and 80 classes", False),
            ("coco2voc", "Background and the 20 classes of PASCAL VOC", True),
        )
        for suffix, extent in (
            ("", ", 118287 train and 5000 val images, 123403 unlabeled ones if they are there."),
            ("_subset", ", the images that the given annotation files name."),
        )
    ]
    COUNTS: ClassVar = {"train": 118287, "val": 5000, "unlabeled": 123403}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "unpack train2017.zip, val2017.zip and annotations_trainval2017.zip (https://cocodataset.org/#download) there, "
        "which makes train2017, val2017 and annotations; also unlabeled2017.zip to have its split."
    )

    @property
    def _config(self) -> CocoSegConfig:
        assert isinstance(self.builder_config, CocoSegConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        class_names = self._config.class_names
        return self._segmentation_info(
            class_names=class_names,
            palette=voc_palette(len(class_names)),
            background=0,
            image_format="jpeg",
            label=OptionalLabel(),
            description="COCO 2017, the objects of each image painted into one mask.",
            homepage="https://cocodataset.org/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = self._manual_dir(dl_manager)
        paths = {
            split: self._existing(root / "annotations" / f"instances_{split}2017.json")
            for split in ("train", "val")
        }
        annotations = {}
        with Progress(len(paths), f"{self.name}: reading annotation files") as progress:
            for split, path in paths.items():
                annotations[split] = Annotations(path, OBJECT_NAMES, self._config.class_of)
                progress.update()
        file_names = {split: annotations[split].file_names for split in annotations}
        unlabeled = sorted(path.name for path in (root / "unlabeled2017").glob("*.jpg"))
        if unlabeled:
            file_names["unlabeled"] = unlabeled
        self._check_counts(file_names)
        return {
            split: self._generate_examples(
                split, names, self._existing(root / f"{split}2017"), annotations.get(split)
            )
            for split, names in file_names.items()
        }

    def _generate_examples(
        self, split: str, file_names: Sequence[str], folder: Path, annotations: Annotations | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        def example(file_name: str) -> dict[str, Any]:
            record_id = f"{folder.name}/{Path(file_name).stem}"
            image = self._existing(folder / file_name)
            if annotations is None:
                return {"image": whole_image(image)[0], "label": None, "id": record_id}
            return labeled_example(
                record_id, image, annotations.labels(file_name), f"its entry in {annotations.path}"
            )

        return self._records(split, len(file_names), map(example, file_names))


_CITATION = """\
@inproceedings{Lin14,
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and
            Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  title = {Microsoft {COCO}: Common Objects in Context},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2014},
}"""
