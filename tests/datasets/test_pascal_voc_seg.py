"""pascal_voc_seg: lists, whose masks, bytes that stay as they are, and every mistake that stops preparation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from pseudoseg_tf.data.splits import read_ids
from pseudoseg_tf.data.tfds_source import open_builder
from pseudoseg_tf.datasets import pascal_voc_seg
from tests.published import (
    VOC_LISTS,
    VOC_TRAIN_AUG,
    check_refused,
    draw_voc,
    labels_of,
    prepare,
    voc_labels,
    write_image,
    write_labels,
    write_list,
    write_mat,
)

SUBSET = "pascal_voc_seg/subset"
SBD = "benchmark_RELEASE/dataset"
DEVKIT = "VOCdevkit/VOC2012"


def test_train_aug_from_the_files_of_sbd(tmp_path: Path) -> None:
    devkit = draw_voc(tmp_path)
    splits = prepare(SUBSET, tmp_path, tmp_path / "out")
    assert {split: [record.id for record in records] for split, records in splits.items()} == {
        **VOC_LISTS,
        "train_aug": VOC_TRAIN_AUG,
    }
    for record in [record for records in splits.values() for record in records]:
        assert record.image == (devkit / f"JPEGImages/{record.id}.jpg").read_bytes()
        # SBD's mask of 2007_000001 is all of class 20: VOC's was taken.
        np.testing.assert_array_equal(labels_of(record, 21), voc_labels(record.id))
        assert record.mask is not None and record.mask[24:26] == bytes([8, 0])  # 8-bit grey


def test_train_aug_from_a_folder_of_png(tmp_path: Path) -> None:
    devkit = draw_voc(tmp_path)
    shutil.rmtree(tmp_path / "benchmark_RELEASE")
    for record_id in {*VOC_LISTS["trainval"], *VOC_TRAIN_AUG}:
        labels = voc_labels(record_id)
        if record_id.startswith("2007"):
            labels[:] = 20
        write_labels(devkit / f"SegmentationClassAug/{record_id}.png", labels, palette=record_id > "2008")
    records = prepare(SUBSET, tmp_path, tmp_path / "out")["train_aug"]
    assert [record.id for record in records] == VOC_TRAIN_AUG
    for record in records:
        np.testing.assert_array_equal(labels_of(record, 21), voc_labels(record.id))


def test_a_list_of_train_aug_gives_its_order(tmp_path: Path) -> None:
    devkit = draw_voc(tmp_path)
    order = ["2008_000005", "2007_000003", "2007_000001"]
    write_list(devkit / "ImageSets/Segmentation/train_aug.txt", order)
    assert [record.id for record in prepare(SUBSET, tmp_path, tmp_path / "out")["train_aug"]] == order


def test_info(tmp_path: Path) -> None:
    import pseudoseg_tf.datasets.pascal_voc_seg  # noqa: F401 (what its docstring says)

    builder = tfds.builder("pascal_voc_seg", data_dir=tmp_path)
    assert builder.info.full_name == "pascal_voc_seg/complete/1.0.0"
    metadata = builder.info.metadata
    assert (
        metadata["class_names"][:2] == ["background", "aeroplane"]
        and metadata["class_names"][20] == "tvmonitor"
    )
    assert len(metadata["palette"]) == 21 and metadata["palette"][15] == [192, 128, 128]
    assert (metadata["ignore_label"], metadata["background"]) == (255, 0)
    assert builder.info.homepage.startswith("http://host.robots.ox.ac.uk/")
    assert "Everingham15" in builder.info.citation and "Hariharan11" in builder.info.citation


def test_complete_wants_the_published_counts(tmp_path: Path) -> None:
    draw_voc(tmp_path)
    message = (
        r"^data.name=pascal_voc_seg/complete: found 2 images for the split train, the complete data set has 1464; "
        r"fetch the rest, or take pascal_voc_seg/subset$"
    )
    check_refused("pascal_voc_seg", tmp_path, tmp_path / "out", message)


def no_sbd(root: Path) -> None:
    shutil.rmtree(root / "benchmark_RELEASE")


def mat(values: object) -> Callable[[Path], None]:
    return lambda root: write_mat(root / SBD / "cls/2008_000004.mat", np.asarray(values))


def other_mat(root: Path) -> None:
    scipy.io.savemat(
        root / SBD / "cls/2008_000004.mat", {"GTinst": {"Segmentation": voc_labels("2008_000004")}}
    )


def cut_off(path: str, left: int) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:left]) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: shutil.rmtree(root / "VOCdevkit"),
            r"^pascal_voc_seg: .*VOC2012 does not exist; unpack VOCtrain",
        ),
        (
            no_sbd,
            r"neither .*/dataset nor .*SegmentationClassAug exists; unpack .*benchmark.tgz.*set data.manual_dir",
        ),
        (lambda root: (root / SBD / "train.txt").unlink(), r"/train.txt: cannot be read \(No such file"),
        (lambda root: shutil.rmtree(root / SBD / "cls"), r"/cls does not exist; unpack"),
        (
            lambda root: (root / SBD / "cls/2008_000004.mat").unlink(),
            r"cls/2008_000004.mat does not exist; unpack",
        ),
        (
            lambda root: (root / DEVKIT / "SegmentationClass/2007_000003.png").unlink(),
            r"SegmentationClass/2007_000003.png does not exist; unpack",
        ),
        (
            lambda root: (root / DEVKIT / "JPEGImages/2007_000002.jpg").unlink(),
            r"2007_000002.jpg does not exist; unp",
        ),
        (
            lambda root: (root / DEVKIT / "ImageSets/Segmentation/val.txt").unlink(),
            r"Segmentation/val.txt does not exist; unpack",
        ),
        (
            lambda root: write_list(root / DEVKIT / "ImageSets/Segmentation/val.txt", ["../../secret"]),
            r"val.txt holds '../../secret'; ids are paths in the image folder, without '..'$",
        ),
        (
            lambda root: write_list(root / DEVKIT / "ImageSets/Segmentation/train_aug.txt", ["2007_000002"]),
            r"^pascal_voc_seg: train_aug and val share 1 id \('2007_000002'\)",
        ),
        (
            cut_off(f"{DEVKIT}/JPEGImages/2008_000005.jpg", -20),
            r"^image .*JPEGImages/2008_000005.jpg: damaged \(.*truncated.*\); replace",
        ),
        (
            cut_off(f"{DEVKIT}/SegmentationClass/2007_000002.png", 700),
            r"^mask .*SegmentationClass/2007_000002.png: damaged",
        ),
        (
            lambda root: write_image(root / DEVKIT / "JPEGImages/2007_000001.jpg", 11, 15, 0),
            r"^image .*2007_000001.jpg is 15x11 pixels .*, but mask .*SegmentationClass/2007_000001.png is 14x11;",
        ),
        (
            lambda root: write_image(root / DEVKIT / "JPEGImages/2008_000004.jpg", 14, 15, 0),
            r"^image .*2008_000004.jpg is 15x14 pixels .*, but mask .*cls/2008_000004.mat is 14x14;",
        ),
        (
            lambda root: write_labels(
                root / DEVKIT / "SegmentationClass/2007_000001.png", np.full((11, 14), 21, np.uint8)
            ),
            r"^mask .*2007_000001.png: pixel values 21; allowed are the class ids 0 to 20 and 255",
        ),
        (
            lambda root: write_image(root / DEVKIT / "SegmentationClass/2007_000001.png", 11, 14, 0),
            r"^mask .*2007_000001.png: stored as a color picture",
        ),
        (
            mat(np.full((14, 14), 21, np.uint8)),
            r"^mask .*2008_000004.mat: GTcls.Segmentation is uint8 \[14, 14\] of the values 21; it must be .*0 to 20",
        ),
        (
            mat(np.zeros((14, 14))),
            r"2008_000004.mat: GTcls.Segmentation is float64 \[14, 14\] of the values 0.0;",
        ),
        (mat(np.zeros((14, 14, 3), np.uint8)), r"2008_000004.mat: GTcls.Segmentation is uint8 \[14, 14, 3\]"),
        (
            other_mat,
            r"2008_000004.mat: no .mat file with GTcls.Segmentation \(KeyError\); unpack SBD's archive again$",
        ),
        (
            cut_off(f"{SBD}/cls/2008_000004.mat", 150),
            r"2008_000004.mat: no .mat file with GTcls.Segmentation \(",
        ),
        (
            lambda root: (root / SBD / "cls/2008_000004.mat").write_bytes(bytes(1 + (1 << 20))),
            r"2008_000004.mat: 1,048,577 bytes, at most 1,048,576 are read",
        ),
    ],
)
def test_a_spoiled_file_stops_preparation(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    draw_voc(tmp_path)
    spoil(tmp_path)
    check_refused(SUBSET, tmp_path, tmp_path / "out", message)


def test_preparation_succeeds_once_the_file_is_mended(tmp_path: Path) -> None:
    draw_voc(tmp_path)
    path = tmp_path / SBD / "cls/2008_000005.mat"
    whole = path.read_bytes()
    path.write_bytes(b"")
    # Three splits and three records of the last were written before.
    check_refused(SUBSET, tmp_path, tmp_path / "out", "2008_000005.mat: no .mat file")
    path.write_bytes(whole)
    assert [record.id for record in prepare(SUBSET, tmp_path, tmp_path / "out")["train_aug"]] == VOC_TRAIN_AUG
    # Prepared files need the archives no more.
    shutil.rmtree(tmp_path / "VOCdevkit")
    assert len(prepare(SUBSET, tmp_path / "none", tmp_path / "out")["train_aug"]) == 4


@pytest.mark.needs_shared
class TestRealFiles:
    def test_official_lists_are_what_the_rule_gives(self, shared_dir: Path, tmp_path: Path) -> None:
        lists = {
            name: read_ids(shared_dir / f"splits/voc/official_{name}.txt", "test")
            for name in ("train", "val", "train_aug")
        }
        for name in ("train", "val"):
            write_list(tmp_path / f"ImageSets/Segmentation/{name}.txt", lists[name])
        write_list(tmp_path / "ImageSets/Segmentation/trainval.txt", sorted(lists["train"] + lists["val"]))
        only_sbd = set(lists["train_aug"]) - set(lists["train"])
        assert len(only_sbd) == 9118
        # SBD's own lists have images of all of VOC's lists.
        write_list(tmp_path / "train.txt", [*only_sbd, *lists["train"][:100]])
        write_list(tmp_path / "val.txt", lists["val"])
        builder = pascal_voc_seg.PascalVocSeg(data_dir=tmp_path / "out")
        found = builder._lists(tmp_path, pascal_voc_seg._SbdMasks(tmp_path, tmp_path / "cls"))
        assert found["train_aug"] == lists["train_aug"]  # sorted, as published
        assert {split: len(ids) for split, ids in found.items()} == builder.COUNTS
        builder._check_counts(found)

    def test_devkit_sample(self, shared_dir: Path, tmp_path: Path) -> None:
        root = shared_dir / "data/voc12_devkit_sample"
        devkit = root / DEVKIT
        splits = prepare(SUBSET, root, tmp_path)
        assert {split: len(records) for split, records in splits.items()} == {
            **{"train": 24, "val": 24, "trainval": 48},
            "train_aug": 48,
        }
        for split, records in splits.items():
            assert [record.id for record in records] == read_ids(
                devkit / f"ImageSets/Segmentation/{split}.txt", "test"
            )
            for record in records:
                assert record.image == (devkit / f"JPEGImages/{record.id}.jpg").read_bytes()
                with Image.open(devkit / f"SegmentationClassAug/{record.id}.png") as mask:
                    np.testing.assert_array_equal(labels_of(record, 21), np.asarray(mask))

    def test_devkit_sample_with_masks_as_mat(self, shared_dir: Path, tmp_path: Path) -> None:
        sample = shared_dir / "data/voc12_devkit_sample" / DEVKIT
        devkit = tmp_path / DEVKIT
        devkit.mkdir(parents=True)
        for name in ("JPEGImages", "SegmentationClass", "ImageSets"):
            (devkit / name).symlink_to(sample / name)
        ids = read_ids(sample / "ImageSets/Segmentation/train_aug.txt", "test")
        for record_id in ids:
            with Image.open(sample / f"SegmentationClassAug/{record_id}.png") as mask:
                write_mat(tmp_path / SBD / f"cls/{record_id}.mat", np.asarray(mask))
        records = prepare(SUBSET, tmp_path, tmp_path / "out")["train_aug"]
        assert [record.id for record in records] == ids
        for record in records:
            with Image.open(sample / f"SegmentationClassAug/{record.id}.png") as mask:
                np.testing.assert_array_equal(labels_of(record, 21), np.asarray(mask))

    def test_sample_is_not_complete(self, shared_dir: Path, tmp_path: Path) -> None:
        root = shared_dir / "data/voc12_devkit_sample"
        check_refused("pascal_voc_seg", root, tmp_path, "found 24 images for the split train")


def test_files_are_array_records(tmp_path: Path) -> None:
    draw_voc(tmp_path)
    builder, _ = open_builder(SUBSET, str(tmp_path / "out"), str(tmp_path))
    names = [path.name for path in (tmp_path / "out/pascal_voc_seg/subset/1.0.0").iterdir()]
    assert "pascal_voc_seg-train_aug.array_record-00000-of-00001" in names
    assert builder.as_data_source("train_aug")[2]["label"].shape == (14, 14, 1)
