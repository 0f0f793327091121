"""cityscapes_seg: train ids, ids and order of the frames, and every mistake that stops preparation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.text import read_lines
from pseudoseg_tf.datasets import cityscapes_seg
from pseudoseg_tf.errors import UserError
from tests.published import (
    CITYSCAPES_IDS,
    check_refused,
    cityscapes_label_ids,
    draw_cityscapes,
    labels_of,
    prepare,
    write_image,
    write_labels,
)

SUBSET = "cityscapes_seg/subset"

# Train id of each label id 0 to 33; the official table has 255 for those that are not scored.
TRAIN_IDS = np.array(
    [
        *([255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255]),
        *(6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
    ]
)
AACHEN = "train/aachen/aachen_000001_000019"


def test_what_the_builder_gives(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path)
    splits = prepare(SUBSET, tmp_path, tmp_path / "out")
    assert {split: [record.id for record in records] for split, records in splits.items()} == CITYSCAPES_IDS
    for number, record in enumerate(splits["train"] + splits["val"]):
        assert record.image == (tmp_path / f"leftImg8bit/{record.id}_leftImg8bit.png").read_bytes()
        np.testing.assert_array_equal(labels_of(record, 19), TRAIN_IDS[cityscapes_label_ids(number)])
        assert record.mask is not None and record.mask[24:26] == bytes([8, 0])  # 8-bit grey


def test_info(tmp_path: Path) -> None:
    builder = tfds.builder("cityscapes_seg", data_dir=tmp_path)
    assert builder.info.full_name == "cityscapes_seg/complete/1.0.0"
    metadata = builder.info.metadata
    assert len(metadata["class_names"]) == len(metadata["palette"]) == 19
    colors = dict(zip(metadata["class_names"], metadata["palette"], strict=True))
    assert (
        colors["road"] == [128, 64, 128]
        and colors["rider"] == [255, 0, 0]
        and colors["bicycle"] == [119, 11, 32]
    )
    assert metadata["ignore_label"] == 255 and metadata["background"] is None
    assert "Cordts16" in builder.info.citation


def test_complete_wants_the_published_counts(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path)
    message = (
        r"^data.name=cityscapes_seg/complete: found 2 images for the split train, the complete data set has 2975; "
        r"fetch the rest, or take cityscapes_seg/subset$"
    )
    check_refused("cityscapes_seg", tmp_path, tmp_path / "out", message)


def test_a_split_without_frames_is_left_out(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit/train")
    data = DataConfig(
        source="tfds",
        name=SUBSET,
        data_dir=str(tmp_path / "out"),
        manual_dir=str(tmp_path),
        labeled="train",
        val="val",
    )
    with pytest.raises(
        UserError,
        match=r"^data.labeled=train: Unknown split 'train'\. Should be one of \['val'\]\.; published label splits of",
    ):
        open_sources(data, "supervised")


def cut_off(path: str, left: int) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:left]) and None


def val_of_a_train_city(root: Path) -> None:
    write_image(root / "leftImg8bit/val/zurich/zurich_000001_000019_leftImg8bit.png", 16, 48, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: shutil.rmtree(root / "gtFine"),
            r"^cityscapes_seg: /.*/gtFine does not exist; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest"
            r".zip \(https.*\) there, .*\. Unpacked elsewhere: set data.manual_dir to that folder$",
        ),
        (
            lambda root: [shutil.rmtree(root / "leftImg8bit" / split) for split in ("train", "val")] and None,
            r"leftImg8bit holds no file train/CITY/\*_leftImg8bit.png or val/CITY/\*_leftImg8bit.png; unpack",
        ),
        (
            val_of_a_train_city,
            r"^cityscapes_seg: .*leftImg8bit has zurich in train and in val; what is scored",
        ),
        (
            lambda root: (root / f"gtFine/{AACHEN}_gtFine_labelIds.png").unlink(),
            rf"{AACHEN}_gtFine_labelIds.png does not exist; unpack",
        ),
        (
            lambda root: write_labels(
                root / f"gtFine/{AACHEN}_gtFine_labelIds.png", np.full((16, 48), 34, np.uint8)
            ),
            rf"^mask .*{AACHEN}_gtFine_labelIds.png: pixel values 34; allowed are the class ids 0 to 33 and 255",
        ),
        (
            lambda root: write_labels(
                root / f"gtFine/{AACHEN}_gtFine_labelIds.png", np.zeros((48, 16), np.uint8)
            ),
            rf"^image .*{AACHEN}_leftImg8bit.png is 48x16 .*, but mask .*{AACHEN}_gtFine_labelIds.png is 16x48;",
        ),
        (
            cut_off(f"leftImg8bit/{AACHEN}_leftImg8bit.png", -400),
            rf"^image .*{AACHEN}_leftImg8bit.png: damaged \(",
        ),
        (
            cut_off(f"gtFine/{AACHEN}_gtFine_labelIds.png", 60),
            rf"^mask .*{AACHEN}_gtFine_labelIds.png: damaged \(",
        ),
    ],
)
def test_a_spoiled_file_stops_preparation(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    draw_cityscapes(tmp_path)
    spoil(tmp_path)
    check_refused(SUBSET, tmp_path, tmp_path / "out", message)


@pytest.mark.needs_shared
class TestRealFiles:
    def test_sample(self, shared_dir: Path, tmp_path: Path) -> None:
        """One frame of val, with the official train ids beside."""
        root = shared_dir / "data/cityscapes_sample"
        splits = prepare(SUBSET, root, tmp_path)
        record_id = "val/frankfurt/frankfurt_000000_000294"
        assert {split: [record.id for record in records] for split, records in splits.items()} == {
            "val": [record_id]
        }
        (record,) = splits["val"]
        assert record.image == (root / f"leftImg8bit/{record_id}_leftImg8bit.png").read_bytes()
        found = labels_of(record, 19)
        with Image.open(root / f"gtFine/{record_id}_gtFine_labelIds.png") as image:
            np.testing.assert_array_equal(found, TRAIN_IDS[np.asarray(image)])
        # The sample was shrunk with another interpolation for each file: at outlines they differ.
        with Image.open(root / f"gtFine/{record_id}_gtFine_labelTrainIds.png") as image:
            official = np.asarray(image)
        assert (found != official).sum() == 77
        for train_id in np.unique(found):
            assert np.bincount(official[found == train_id]).argmax() == train_id

    def test_order_of_the_published_names(self, shared_dir: Path, tmp_path: Path) -> None:
        names = [
            name for name in read_lines(shared_dir / "splits/cityscapes/all_train_sorted.txt", "test") if name
        ]
        for name in reversed(names):
            path = tmp_path / f"{name}_leftImg8bit.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert cityscapes_seg._frames(tmp_path, "train") == names
        assert len(names) == cityscapes_seg.CityscapesSeg.COUNTS["train"]
