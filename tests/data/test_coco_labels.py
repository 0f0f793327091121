"""Image-level labels from COCO's annotations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import coco_labels
from pseudoseg_tf.data.coco_labels import read_coco_image_labels
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError

NAMES = ("cat", "dog")


def annotations() -> dict[str, Any]:
    """Image 7 shows two dogs and a crowd of cats, 8 a cat and a dog, 9 nothing."""
    objects = [(7, 18, 0), (7, 18, 0), (7, 17, 1), (8, 17, 0), (8, 18, 0)]
    return {
        "images": [
            {"id": 7, "file_name": "000007.jpg"},
            {"id": 8, "file_name": "train2017/000008.jpg"},
            {"id": 9, "file_name": "000009.jpg"},
        ],
        "categories": [
            {"id": 17, "name": "cat"},
            {"id": 18, "name": "dog"},
            {"id": 19, "name": "horse"},
            {"id": 20, "name": "background"},
        ],
        "annotations": [
            {"image_id": image, "category_id": category, "iscrowd": crowd}
            for image, category, crowd in objects
        ],
    }


def write(directory: Path, content: Any) -> Path:
    path = directory / "instances_train2017.json"
    path.write_text(json.dumps(content))
    return path


def test_objects_of_each_image(tmp_path: Path) -> None:
    labels = read_coco_image_labels(write(tmp_path, annotations()), NAMES)
    assert {name: row.tolist() for name, row in labels.items()} == {
        "000007": [0, 1],
        "000008": [1, 1],
        "000009": [0, 0],
    }
    assert labels["000007"].dtype == np.float32


def test_categories_go_by_name(tmp_path: Path) -> None:
    labels = read_coco_image_labels(write(tmp_path, annotations()), ("dog", "horse", "cat"))
    assert labels["000008"].tolist() == [1, 0, 1]


def setting(*place: str | int, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("images", value=None), r" has no list 'images'; give COCO's annotations"),
        (setting("categories", value={}), r" has no list 'categories'"),
        (setting("annotations", value="x"), r" has no list 'annotations'"),
        (setting("images", 1, value=3), r": images\[1\] lacks one of id \(int\), file_name \(str\); take"),
        (setting("images", 0, "file_name", value=None), r": images\[0\] lacks one of id"),
        (
            setting("annotations", 2, "iscrowd", value="0"),
            r": annotations\[2\] lacks one of image_id \(int\), cat",
        ),
        (setting("images", 2, "id", value=7), r": images names '000009.jpg' or its id twice"),
        (
            setting("images", 2, "file_name", value="x/000007.png"),
            r": images names 'x/000007.png' or its id twice",
        ),
        (
            setting("annotations", 0, "image_id", value=5),
            r": an annotation is of image 5 and category 18, of which",
        ),
        (
            setting("annotations", 0, "category_id", value=5),
            r": an annotation is of image 7 and category 5, of wh",
        ),
        (
            setting("annotations", 0, "category_id", value=19),
            r": category 'horse' is not a class of the data set other than the background; say in "
            r"data.category_classes, a file of rows category,class, which class each is, if any$",
        ),
        (
            setting("categories", 1, "name", value="dogs"),
            r": category 'dogs' .* \(did you mean 'dog'\?\); say in data",
        ),
        (setting("annotations", 0, "category_id", value=20), r": category 'background' is not a class"),
    ],
)
def test_other_content(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    content = annotations()
    change(content)
    with pytest.raises(UserError, match=r"^data.image_labels: .*instances_train2017.json" + message) as error:
        read_coco_image_labels(write(tmp_path, content), NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", r" has no list 'images'"),
        (b'{"images": [', r": not valid JSON"),
        (b"[" * 100_000, r": not valid JSON"),
        (b"\xff", r": not valid JSON"),
        (b" " * 2000, r": more than 0 MiB, too large"),
    ],
)
def test_no_json(tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(content) == 2000:
        monkeypatch.setattr(coco_labels, "_MAX_BYTES", 1999)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^data.image_labels: {path}{message}") as error:
        read_coco_image_labels(path, NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"dogs": "dog"}, {"dog"}),
        ({"dogs": ""}, set()),
        ({"*": ""}, set()),
        ({"dogs": "cat", "*": "dog"}, {"cat"}),
    ],
)
def test_categories_called_otherwise(tmp_path: Path, classes: dict[str, str], expected: set[str]) -> None:
    content = annotations()
    dogs = content["categories"][1]["id"]
    content["categories"][1]["name"] = "dogs"
    image = content["images"][0]
    content["annotations"] = [{"image_id": image["id"], "category_id": dogs, "iscrowd": 0}]
    labels = read_coco_image_labels(write(tmp_path, content), NAMES, classes)
    shown = labels[Path(image["file_name"]).stem]
    assert {NAMES[index] for index in np.flatnonzero(shown)} == expected


def test_missing_file() -> None:
    with pytest.raises(
        UserError, match=r"^data.image_labels: /nowhere/a.json: cannot be read \(No such file"
    ):
        read_coco_image_labels("/nowhere/a.json", NAMES)


def test_large_files_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, annotations())
    read_coco_image_labels(path, NAMES)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(coco_labels, "_LARGE_BYTES", 100)
    read_coco_image_labels(path, NAMES)
    assert capsys.readouterr().err == f"data.image_labels: {path}: reading 0 MiB\n"


@pytest.fixture
def folder(tmp_path: Path) -> DataConfig:
    """Images train2017/000007 to 9 and val2017/000001; masks of 9 and 1 only, labels of the rest in a JSON file."""
    random = np.random.default_rng(0)
    for name in (
        "train2017/000007",
        "train2017/000008",
        "train2017/000009",
        "val2017/000001",
        "labeled/000010",
    ):
        for kind in ("images", "masks"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{name}.jpg")
        if name not in ("train2017/000007", "train2017/000008"):
            Image.fromarray(np.full((6, 8), 2, np.uint8)).save(tmp_path / f"masks/{name}.png")
    for name, content in {
        "classes": "\n".join(("background", *NAMES)),
        "labeled": "labeled/000010",
        "unlabeled": "train2017/000009\ntrain2017/000008\ntrain2017/000007",
        "val": "val2017/000001",
    }.items():
        (tmp_path / f"{name}.txt").write_text(content)
    files = {name: str(tmp_path / f"{name}.txt") for name in ("classes", "labeled", "unlabeled", "val")}
    return DataConfig(
        images=str(tmp_path / "images"),
        masks=str(tmp_path / "masks"),
        image_labels=str(write(tmp_path, annotations())),
        **files,
    )


def test_ids_go_by_file_name(folder: DataConfig) -> None:
    sources = open_sources(folder, "weakly")
    assert sources.unlabeled is not None
    labels = [sources.unlabeled.read(index).image_labels for index in range(3)]
    assert [row.tolist() for row in labels if row is not None] == [[0, 0], [1, 1], [0, 1]]
    assert sources.notes[0] == "unlabeled pool: 3 images, none of them labeled"


def test_images_that_are_not_annotated(folder: DataConfig, tmp_path: Path) -> None:
    content = annotations()
    del content["images"][2]
    write(tmp_path, content)
    sources = open_sources(folder, "weakly")
    assert sources.unlabeled is not None and sources.unlabeled.read(0).image_labels is None
    assert sources.notes[1] == "image-level labels of 1 of 3 unlabeled images come from their masks"
    Path(folder.masks, "train2017/000009.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of 3 .* neither an entry in .*\.json nor a mask, first 'train2017/000009'"
    ):
        open_sources(folder, "weakly")


def test_file_names_that_repeat(folder: DataConfig, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images/labeled/000007.jpg")
    Path(folder.unlabeled).write_text("train2017/000007\nlabeled/000007\n")
    with pytest.raises(UserError, match=r"^data.image_labels: annotations go by file name, .* repeats 1 id"):
        open_sources(folder, "weakly")
    # Rows of a CSV file name whole ids.
    (tmp_path / "tags.csv").write_text("train2017/000007,cat\nlabeled/000007,dog\n")
    csv = dataclasses.replace(folder, image_labels=str(tmp_path / "tags.csv"))
    unlabeled = open_sources(csv, "weakly").unlabeled
    assert unlabeled is not None
    np.testing.assert_array_equal([unlabeled.read(k).image_labels for k in (0, 1)], [[1, 0], [0, 1]])


@pytest.mark.needs_shared
@pytest.mark.parametrize(("part", "count"), [("train", 163), ("val", 186)])
def test_coco_sample(shared_dir: Path, part: str, count: int) -> None:
    path = shared_dir / f"data/coco_sample/annotations/instances_{part}2017.json"
    content = json.loads(path.read_text())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = tuple(category["name"] for category in categories)
    labels = read_coco_image_labels(path, names)
    files = {file.stem for file in (shared_dir / f"data/coco_sample/{part}2017").iterdir()}
    assert set(labels) == files and len(files) == 40
    shown = {
        (annotation["image_id"], annotation["category_id"])
        for annotation in content["annotations"]
        if not annotation["iscrowd"]
    }
    for image in content["images"]:
        expected = [float((image["id"], category["id"]) in shown) for category in categories]
        assert labels[Path(image["file_name"]).stem].tolist() == expected
    assert sum(map(np.sum, labels.values())) == count
