"""Little trees in the form of VOC's devkit, COCO and Cityscapes, and what the builders make of a tree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.specs import IGNORE_LABEL, Record, voc_palette
from pseudoseg_tf.data.tfds_index import SplitIndexes
from pseudoseg_tf.data.tfds_source import TFDSSource, open_builder
from pseudoseg_tf.datasets.coco_seg import OBJECT_NAMES
from pseudoseg_tf.errors import UserError

# The category ids of COCO leave out these.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORY_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]


def prepare(name: str, manual_dir: Path, data_dir: Path) -> dict[str, list[Record]]:
    """Prepares a builder and returns the records of each split, as training reads them."""
    builder, info = open_builder(name, str(data_dir), str(manual_dir))
    indexes, splits = SplitIndexes(builder), {}
    for split in builder.info.splits:
        source = TFDSSource(info, builder, indexes, split, f"data.unlabeled={split}")
        splits[split] = [source.read(index) for index in range(len(source))]
    return splits


def labels_of(record: Record, num_classes: int) -> np.ndarray:
    """uint8 [height, width]."""
    assert record.mask is not None
    return decode_mask(record.mask, record.id, num_classes)


def check_refused(name: str, manual_dir: Path, data_dir: Path, message: str) -> None:
    """Preparing fails with one line, and nothing is left that could be taken for the data set."""
    with pytest.raises(UserError, match=message) as error:
        open_builder(name, str(data_dir), str(manual_dir))
    assert "\n" not in str(error.value)
    assert [
        path for path in data_dir.rglob("*") if "array_record" in path.name or "incomplete" in path.name
    ] == []
    assert not list(data_dir.rglob("dataset_info.json"))


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    """An RGB picture of noise, JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_labels(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    """A PNG of ids, with the colors of VOC's palette on demand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([value for color in voc_palette(256) for value in color])
    image.save(path)


def write_mat(path: Path, labels: np.ndarray) -> None:
    """A file of SBD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = {"Boundaries": np.zeros((20, 1), object), "Segmentation": labels, "CategoriesPresent": [[1]]}
    scipy.io.savemat(path, {"GTcls": truth}, do_compression=True)


# What the lists of the little VOC name. SBD has a mask of 2007_000001 too, of class 20, and of an image of val.
VOC_LISTS = {
    "train": ["2007_000001", "2007_000003"],
    "val": ["2007_000002"],
    "trainval": ["2007_000001", "2007_000002", "2007_000003"],
}
SBD_LISTS = {"train": ["2008_000005", "2007_000001"], "val": ["2007_000002", "2008_000004"]}
VOC_TRAIN_AUG = ["2007_000001", "2007_000003", "2008_000004", "2008_000005"]


def voc_labels(record_id: str) -> np.ndarray:
    """The right mask of an image: VOC's with a border of 255, SBD's without."""
    number = int(record_id[-1])
    labels = np.zeros((10 + number, 14), np.uint8)
    if number <= 3:
        labels[2:8, 2:8] = IGNORE_LABEL
    labels[3:7, 3:7] = number
    return labels


def draw_voc(root: Path) -> Path:
    """Writes VOCdevkit and benchmark_RELEASE; returns the folder VOC2012."""
    devkit = root / "VOCdevkit/VOC2012"
    for name, ids in VOC_LISTS.items():
        write_list(devkit / f"ImageSets/Segmentation/{name}.txt", ids)
    for record_id in VOC_LISTS["trainval"]:
        write_labels(devkit / f"SegmentationClass/{record_id}.png", voc_labels(record_id), palette=True)
    for name, ids in SBD_LISTS.items():
        write_list(root / f"benchmark_RELEASE/dataset/{name}.txt", ids)
        for record_id in ids:
            labels = voc_labels(record_id)
            if record_id.startswith("2007"):
                labels[:] = 20
            write_mat(root / f"benchmark_RELEASE/dataset/cls/{record_id}.mat", labels)
    for record_id in {*VOC_LISTS["trainval"], *VOC_TRAIN_AUG}:
        height, width = voc_labels(record_id).shape
        write_image(devkit / f"JPEGImages/{record_id}.jpg", height, width, int(record_id[-1]))
    return devkit


def write_list(path: Path, ids: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record_id}\n" for record_id in ids))


def coco_category(name: str) -> int:
    return COCO_CATEGORY_IDS[OBJECT_NAMES.index(name)]


def coco_annotation(image_id: int, name: str, segmentation: Any, crowd: bool = False) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": coco_category(name),
        "segmentation": segmentation,
        "iscrowd": int(crowd),
    }


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The polygon of the pixels left <= x < right, top <= y < bottom."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed code of a mask: lengths of runs of 0, 1, 0, ... down the columns."""
    flat = np.concatenate([[0], mask.ravel("F").astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, mask.size])
    return {"size": list(mask.shape), "counts": counts.tolist()}


def draw_coco(
    root: Path,
    annotations: Sequence[dict[str, Any]],
    change: Callable[[dict[str, Any]], None] = lambda content: None,
) -> None:
    """Writes two train images of 20x30 and 21x30 pixels (height x width) and one for val, 22x30.

    Args:
      annotations: of the images 1, 2 (train) and 3 (val).
      change: called with the content of the annotation file of train before that is written.
    """
    for split, image_ids in (("train", (2, 1)), ("val", (3,))):
        images = [
            {"id": number, "file_name": f"{number:012d}.jpg", "height": 19 + number, "width": 30}
            for number in image_ids
        ]
        for image in images:
            write_image(root / f"{split}2017" / image["file_name"], image["height"], 30, image["id"])
        content = {
            "images": images,
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(COCO_CATEGORY_IDS, OBJECT_NAMES, strict=True)
            ],
            "annotations": [
                {"id": number, **annotation}
                for number, annotation in enumerate(annotations, 7)
                if annotation["image_id"] in image_ids
            ],
        }
        if split == "train":
            change(content)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


CITYSCAPES_IDS = {
    "train": ["train/aachen/aachen_000001_000019", "train/zurich/zurich_000000_000019"],
    "val": ["val/munster/munster_000000_000019"],
}


def cityscapes_label_ids(seed: int) -> np.ndarray:
    """Every label id, 0 to 33, in the first 34 of 16x48 pixels."""
    labels = np.random.default_rng(seed).integers(0, 34, (16, 48)).astype(np.uint8)
    labels.flat[:34] = np.arange(34)
    return labels


def draw_cityscapes(root: Path, ids: dict[str, list[str]] = CITYSCAPES_IDS) -> None:
    """Writes leftImg8bit and gtFine."""
    for number, record_id in enumerate(ids["train"] + ids["val"]):
        write_image(root / f"leftImg8bit/{record_id}_leftImg8bit.png", 16, 48, number)
        write_labels(root / f"gtFine/{record_id}_gtFine_labelIds.png", cityscapes_label_ids(number))
