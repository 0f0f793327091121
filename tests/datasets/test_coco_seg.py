"""coco_seg: what is painted over what, images without masks, and every mistake that stops preparation."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pycocotools import mask as codes
from pycocotools.coco import COCO

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.datasets import coco_annotations, coco_seg, pascal_voc_seg
from pseudoseg_tf.errors import UserError
from tests.published import (
    COCO_CATEGORY_IDS,
    box,
    check_refused,
    coco_annotation,
    draw_coco,
    labels_of,
    prepare,
    run_lengths,
    write_image,
)

SUBSET = "coco_seg/coco81_subset"


def crowd() -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[12:, 5:] = True
    return mask


# Of image 1 (20x30): a person, on it a tie and half a dog; a crowd of birds below, on it another dog; a book.
ANNOTATIONS = [
    coco_annotation(1, "tie", box(4, 4, 6, 9)),
    coco_annotation(1, "dog", box(8, 2, 14, 6)),
    coco_annotation(1, "person", box(2, 1, 11, 11)),
    coco_annotation(1, "dog", [*box(20, 14, 24, 16), *box(26, 14, 28, 18)]),
    coco_annotation(1, "bird", run_lengths(crowd()), crowd=True),
    coco_annotation(1, "book", box(0, 11, 8, 14)),
    coco_annotation(3, "toothbrush", box(0, 0, 3, 3)),
    coco_annotation(3, "couch", box(5, 5, 9, 9)),
]


def painted(person: int, tie: int, dog: int, book: int, book_on_crowd: int) -> np.ndarray:
    labels = np.zeros((20, 30), np.uint8)
    labels[crowd()] = 255
    labels[1:11, 2:11] = person
    labels[11:14, :8] = book
    labels[12:14, 5:8] = book_on_crowd
    labels[2:6, 8:14] = dog
    labels[4:9, 4:6] = tie
    labels[14:16, 20:24] = labels[14:18, 26:28] = dog
    return labels


def test_smaller_objects_lie_on_larger_ones_and_all_on_crowds(tmp_path: Path) -> None:
    draw_coco(tmp_path, ANNOTATIONS)
    splits = prepare(SUBSET, tmp_path, tmp_path / "out")
    assert {split: [record.id for record in records] for split, records in splits.items()} == {
        "train": ["train2017/000000000001", "train2017/000000000002"],
        "val": ["val2017/000000000003"],
    }
    first, second = splits["train"]
    expected = painted(person=1, tie=28, dog=17, book=74, book_on_crowd=74)
    np.testing.assert_array_equal(labels_of(first, 81), expected)
    np.testing.assert_array_equal(labels_of(second, 81), np.zeros((21, 30)))
    assert first.image == (tmp_path / "train2017/000000000001.jpg").read_bytes()
    assert set(np.unique(labels_of(splits["val"][0], 81))) == {0, 80, 58}


@pytest.mark.parametrize("outline", [[], [[3, 3, 9, 9]], [[3, 3]]])
def test_points_and_lines_cover_nothing(outline: list[list[int]], tmp_path: Path) -> None:
    draw_coco(tmp_path, [coco_annotation(1, "cat", outline)])
    path = tmp_path / "annotations/instances_train2017.json"
    annotations = coco_annotations.Annotations(path, coco_seg.OBJECT_NAMES, {"cat": 3}.get)
    np.testing.assert_array_equal(annotations.labels("000000000001.jpg"), np.zeros((20, 30)))


def test_classes_of_voc(tmp_path: Path) -> None:
    draw_coco(tmp_path, ANNOTATIONS)
    splits = prepare("coco_seg/coco2voc_subset", tmp_path, tmp_path / "out")
    # Neither the tie on the person nor the book is painted: person and crowd are seen.
    expected = painted(person=15, tie=15, dog=12, book=0, book_on_crowd=255)
    np.testing.assert_array_equal(labels_of(splits["train"][0], 21), expected)
    assert set(np.unique(labels_of(splits["val"][0], 21))) == {0, 18}  # a sofa


def test_every_class_of_voc_is_one_of_coco() -> None:
    config = coco_seg.CocoSeg.builder_configs["coco2voc"]
    ids = {name: config.class_of(name) for name in coco_seg.OBJECT_NAMES}
    assert sorted(class_id for class_id in ids.values() if class_id is not None) == list(range(1, 21))
    voc = pascal_voc_seg.CLASS_NAMES
    assert {name: voc[class_id] for name, class_id in ids.items() if class_id and voc[class_id] != name} == {
        "airplane": "aeroplane",
        "motorcycle": "motorbike",
        "potted plant": "pottedplant",
        "dining table": "diningtable",
        "couch": "sofa",
        "tv": "tvmonitor",
    }


@pytest.mark.parametrize(("config", "classes"), [("coco81", 81), ("coco2voc", 21), ("coco2voc_subset", 21)])
def test_info(config: str, classes: int, tmp_path: Path) -> None:
    builder = tfds.builder(f"coco_seg/{config}", data_dir=tmp_path)
    metadata = builder.info.metadata
    assert len(metadata["class_names"]) == len(metadata["palette"]) == classes
    assert (metadata["ignore_label"], metadata["background"]) == (255, 0)
    assert (
        builder.info.homepage == "https://cocodataset.org/"
        and "@inproceedings{Lin14" in builder.info.citation
    )
    assert tfds.builder("coco_seg", data_dir=tmp_path).info.full_name == "coco_seg/coco81/1.0.0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A little COCO with two images of unlabeled2017."""
    root = tmp_path_factory.mktemp("coco")
    draw_coco(root, ANNOTATIONS)
    for number in (12, 4):
        write_image(root / f"unlabeled2017/{number:012d}.jpg", 9, 7, number)
    return DataConfig(
        source="tfds",
        name=SUBSET,
        data_dir=str(root / "out"),
        manual_dir=str(root),
        labeled="train",
        unlabeled="unlabeled",
        val="val",
    )


class TestImagesWithoutMasks:
    def test_their_records_have_none(self, data: DataConfig) -> None:
        source = open_sources(data, "unlabeled").unlabeled
        assert source is not None and not source.has_masks
        assert source.ids == ("unlabeled2017/000000000004", "unlabeled2017/000000000012")
        record = source.read(1)
        assert record.mask is None
        assert record.image == (Path(data.manual_dir) / "unlabeled2017/000000000012.jpg").read_bytes()
        image, labels = decode_record(record, 81)
        assert image.shape == (9, 7, 3) and (labels == 255).all()

    def test_some_have_and_some_have_not(self, data: DataConfig) -> None:
        both = dataclasses.replace(data, unlabeled="unlabeled+train")
        source = open_sources(both, "unlabeled").unlabeled
        assert source is not None and not source.has_masks
        assert [source.read(index).mask is None for index in range(len(source))] == [True, True, False, False]

    def test_they_cannot_be_learned_from(self, data: DataConfig) -> None:
        message = (
            r"^data.labeled=unlabeled: 2 of 2 records have no mask, first 'unlabeled2017/000000000004'; name"
        )
        with pytest.raises(UserError, match=message):
            open_sources(dataclasses.replace(data, labeled="unlabeled"), "supervised")
        with pytest.raises(
            UserError, match=r"^data.image_labels: 2 of 2 images of data.unlabeled have neither"
        ):
            open_sources(data, "weakly")

    def test_decoded_by_tfds(self, data: DataConfig) -> None:
        builder = tfds.builder(SUBSET, data_dir=data.data_dir)
        record = builder.as_data_source("unlabeled")[0]
        assert record["label"] is None and record["image"].shape == (9, 7, 3)
        labels = builder.as_data_source("train")[0]["label"]
        assert labels.dtype == np.uint8 and labels.shape == (20, 30, 1)
        assert builder.info.splits["unlabeled"].num_examples == 2


def test_complete_wants_the_published_counts(tmp_path: Path) -> None:
    draw_coco(tmp_path, ANNOTATIONS)
    message = (
        r"^data.name=coco_seg/coco2voc: found 2 images for the split train, the complete data set has 118287; fetch "
        r"the rest, or take coco_seg/coco81_subset or coco_seg/coco2voc_subset$"
    )
    check_refused("coco_seg/coco2voc", tmp_path, tmp_path / "out", message)


def set_image(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["images"][0][key] = value

    return change


def set_outline(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Changes an annotation of image 1, the second that is written."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"][1][key] = value

    return change


def remove(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key) and None


def rename_person(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "man"


def repeat_image(content: dict[str, Any]) -> None:
    content["images"].append({**content["images"][0], "id": 9})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            remove("images"),
            r"^/.*instances_train2017.json: no annotation file of COCO \(KeyError: 'images'\); unpack",
        ),
        (remove("categories"), r"no annotation file of COCO \(KeyError: 'categories'\)"),
        (lambda content: content.update(annotations=3), r"no annotation file of COCO \(TypeError"),
        (lambda content: content.update(annotations=[{}]), r"no annotation file of COCO \(KeyError"),
        (rename_person, r"its 80 categories are not the 80 objects of COCO 2017; give its instances file$"),
        (
            lambda content: content.update(images=[]),
            r"instances_train2017.json: names no image; it must name one or more$",
        ),
        (repeat_image, r"instances_train2017.json repeats 1 id \('000000000002.jpg'\)"),
        (
            set_image("file_name", "../000000000002.jpg"),
            r"names the image '../000000000002.jpg'; a name is NAME.jpg",
        ),
        (
            set_image("file_name", "2.jpg"),
            r"^coco_seg: .*train2017/2.jpg does not exist; unpack train2017.zip",
        ),
        (
            set_image("height", 20),
            r"^image .*train2017/000000000002.jpg is 30x21 pixels .*, but its entry in .*json is 30x20; they must",
        ),
        (
            set_image("height", 1 << 40),
            r"image 000000000002.jpg: cannot be painted \(ValueError: 30x1099511627776 pix",
        ),
        (set_image("width", None), r"image 000000000002.jpg: cannot be painted \(TypeError"),
        (
            set_outline("segmentation", [[1, 2, 3, 4, 5, 6, 7]]),
            r"annotation 8 of 000000000001.jpg: cannot be painted \(ValueError: a polygon is x, y, x, y and so on",
        ),
        (set_outline("segmentation", [[1, 2, 3, 4, 5, 1e12]]), r"ValueError: a polygon leaves the image"),
        (
            set_outline("segmentation", [[1, 2, 3, 4, 5, float("nan")]]),
            r"ValueError: a polygon leaves the image",
        ),
        (
            set_outline("segmentation", {"size": [9, 9], "counts": [81]}),
            r"run lengths of size \[9, 9\], the image",
        ),
        (
            set_outline("segmentation", {"size": [20, 30], "counts": [1, 2]}),
            r"run lengths that do not add up to the image",
        ),
        (
            set_outline("segmentation", {"size": [20, 30], "counts": "zz"}),
            r"run lengths that do not add up",
        ),
        (
            set_outline("segmentation", None),
            r"annotation 8 of 000000000001.jpg: cannot be painted \(TypeError",
        ),
        (
            set_outline("category_id", 12),
            r"annotation 8 of 000000000001.jpg: cannot be painted \(KeyError: 12\)",
        ),
    ],
)
def test_a_spoiled_annotation_stops_preparation(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    draw_coco(tmp_path, ANNOTATIONS, change)
    check_refused(SUBSET, tmp_path, tmp_path / "out", message)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "annotations/instances_val2017.json",
            b"{",
            r"instances_val2017.json: no annotation file of COCO \(JSONDec",
        ),
        ("annotations/instances_val2017.json", b"[" * 100000, r"no annotation file of COCO \(RecursionError"),
        ("train2017/000000000001.jpg", b"", r"^image .*000000000001.jpg: the file is empty; replace it"),
        (
            "unlabeled2017/000000000009.jpg",
            b"\xff\xd8\xff",
            r"^image .*unlabeled2017/000000000009.jpg: damaged \(",
        ),
    ],
)
def test_a_spoiled_file_stops_preparation(path: str, content: bytes, message: str, tmp_path: Path) -> None:
    draw_coco(tmp_path, ANNOTATIONS)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(content)
    check_refused(SUBSET, tmp_path, tmp_path / "out", message)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "annotations/instances_val2017.json",
            "instances_val2017.json does not exist; unpack train2017.zip, val2017",
        ),
        ("val2017/000000000003.jpg", r"val2017/000000000003.jpg does not exist; unpack"),
    ],
)
def test_a_missing_file_stops_preparation(path: str, message: str, tmp_path: Path) -> None:
    draw_coco(tmp_path, ANNOTATIONS)
    (tmp_path / path).unlink()
    check_refused(SUBSET, tmp_path, tmp_path / "out", message)


@pytest.mark.needs_shared
@pytest.mark.parametrize("config", ["coco81_subset", "coco2voc_subset"])
def test_every_annotation_of_the_sample(config: str, shared_dir: Path, tmp_path: Path) -> None:
    """Where one object alone lies, the label is its class; the masks are those of pycocotools."""
    root = shared_dir / "data/coco_sample"
    class_of = coco_seg.CocoSeg.builder_configs[config].class_of
    classes = {
        number: class_of(name) for number, name in zip(COCO_CATEGORY_IDS, coco_seg.OBJECT_NAMES, strict=True)
    }
    compared = crowds = alone_somewhere = 0
    for split, records in prepare(f"coco_seg/{config}", root, tmp_path).items():
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(root / f"annotations/instances_{split}2017.json")
        assert [record.id for record in records] == [
            f"{split}2017/{number:012d}" for number in sorted(coco.imgs)
        ]
        for record in records:
            assert record.image == (root / f"{record.id}.jpg").read_bytes()
            labels = labels_of(record, 81)
            found = coco.loadAnns(coco.getAnnIds(int(record.id[-12:])))
            compared += len(found)
            known = [annotation for annotation in found if classes[annotation["category_id"]]]
            masks = {annotation["id"]: coco.annToMask(annotation).astype(bool) for annotation in known}
            objects = [annotation for annotation in known if not annotation["iscrowd"]]
            layers = sum(
                (masks[annotation["id"]].astype(int) for annotation in objects), np.zeros(labels.shape, int)
            )
            in_crowd = np.zeros(labels.shape, bool)
            for annotation in known:
                if annotation["iscrowd"]:
                    crowds += 1
                    in_crowd |= masks[annotation["id"]]
            # Of several objects on a pixel, the smallest.
            nearest, area = np.zeros(labels.shape, int), np.full(labels.shape, np.inf)
            for annotation in objects:
                mask, class_id = masks[annotation["id"]], classes[annotation["category_id"]]
                alone = mask & (layers == 1)
                assert (labels[alone] == class_id).all()
                alone_somewhere += alone.any()
                smaller = mask & (mask.sum() <= area)
                nearest[smaller], area[smaller] = class_id, mask.sum()
            np.testing.assert_array_equal(labels[layers > 0], nearest[layers > 0])
            assert (labels[in_crowd & (layers == 0)] == 255).all()
            assert (labels[~in_crowd & (layers == 0)] == 0).all()
    assert (compared, crowds) == (1159, {"coco81_subset": 30, "coco2voc_subset": 22}[config])
    assert alone_somewhere == {"coco81_subset": 1033, "coco2voc_subset": 621}[config]


def test_outlines_of_the_size_of_the_image_are_read_whole(tmp_path: Path) -> None:
    """Compressed codes too, which COCO's own files do not have."""
    code = codes.encode(np.asfortranarray(crowd().astype(np.uint8)))
    annotation = coco_annotation(1, "cat", {"size": code["size"], "counts": code["counts"].decode()})
    draw_coco(tmp_path, [annotation, coco_annotation(2, "cat", box(0, 0, 30, 21))])
    names = coco_seg.OBJECT_NAMES
    annotations = coco_annotations.Annotations(
        tmp_path / "annotations/instances_train2017.json", names, {"cat": 3}.get
    )
    np.testing.assert_array_equal(annotations.labels("000000000001.jpg"), np.where(crowd(), 3, 0))
    np.testing.assert_array_equal(annotations.labels("000000000002.jpg"), np.full((21, 30), 3))
