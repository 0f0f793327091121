"""Folders, TFRecord shards and TFDS builders: what they give, and every mistake they refuse."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import sources as sources_module
from pseudoseg_tf.data import split_catalog, tfds_index, tfrecord
from pseudoseg_tf.data.bad_examples import BadExamples
from pseudoseg_tf.data.decode import decode_image, decode_record
from pseudoseg_tf.data.folder import FolderSource
from pseudoseg_tf.data.pipeline import evaluation_dataset, training_dataset
from pseudoseg_tf.data.sources import Sources, open_sources, opener
from pseudoseg_tf.data.specs import DatasetInfo, Source, voc_palette
from pseudoseg_tf.data.splits import class_balanced_draw, read_ids
from pseudoseg_tf.data.tfrecord import TFRecordSource
from pseudoseg_tf.errors import UserError

INFO = DatasetInfo(("background", "cat", "dog"), voc_palette(3), "tiny")


def picture(number: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full((*size, 3), number, np.uint8)


def labels_of(number: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    labels = np.full(size, number % 3, np.uint8)
    labels[0, 0] = 255
    return labels


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def check(source: Source, numbers: Sequence[int], with_masks: bool = True) -> None:
    """The source holds exactly these pictures, read in any order and from several threads."""
    assert len(source) == len(source.ids) == len(numbers)
    assert source.has_masks == with_masks
    for index in reversed(range(len(numbers))):
        record = source.read(index)
        assert record.id == source.ids[index]
        image, labels = decode_record(record, 3)
        np.testing.assert_array_equal(image, picture(numbers[index]))
        expected = labels_of(numbers[index]) if with_masks else np.full((6, 8), 255)
        np.testing.assert_array_equal(labels, expected)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ids = [record.id for record in pool.map(source.read, list(range(len(numbers))) * 5)]
    assert ids == list(source.ids) * 5


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> DataConfig:
    """Pictures 0..9: 0-2 labeled, 3-6 unlabeled and without masks, 7-9 for evaluation."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(10):
        Image.fromarray(picture(number)).save(tmp_path / f"images/p{number}.png")
        if number not in (3, 4, 5, 6):
            Image.fromarray(labels_of(number)).save(tmp_path / f"masks/p{number}.png")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    (tmp_path / "labeled.txt").write_text("p0\np1\np2\n")
    (tmp_path / "unlabeled.txt").write_text("p3\np4\np5\np6\n")
    (tmp_path / "val.txt").write_text("p7\np8\np9\n")
    return DataConfig(
        images=str(tmp_path / "images"),
        masks=str(tmp_path / "masks"),
        classes=str(tmp_path / "classes.txt"),
        labeled=str(tmp_path / "labeled.txt"),
        unlabeled=str(tmp_path / "unlabeled.txt"),
        val=str(tmp_path / "val.txt"),
    )


def give_masks(folder: DataConfig, numbers: Sequence[int] = (3, 4, 5, 6)) -> None:
    for number in numbers:
        Image.fromarray(labels_of(number)).save(f"{folder.masks}/p{number}.png")


class TestFolder:
    def test_what_it_gives(self, folder: DataConfig) -> None:
        sources = open_sources(folder, "unlabeled")
        assert sources.info.class_names == ("background", "cat", "dog")
        assert sources.info.palette == voc_palette(3)
        assert sources.info.name == Path(folder.classes).parent.name
        check(sources.labeled, [0, 1, 2])
        check(sources.val, [7, 8, 9])
        assert sources.unlabeled is not None
        check(sources.unlabeled, [3, 4, 5, 6], with_masks=False)
        assert sources.unlabeled.read(0).mask is None
        assert sources.unlabeled.read(0).image_labels is None
        assert sources.notes == ("unlabeled pool: 4 images, none of them labeled",)

    def test_one_file_under_two_ids(self, folder: DataConfig) -> None:
        for kind in ("images", "masks"):
            Path(getattr(folder, kind), "p0.png").rename(Path(getattr(folder, kind), "p0.png.png"))
        Path(folder.labeled).write_text("p0.png.png\np1\n./p2.png\n")
        assert open_sources(folder, "supervised").labeled.ids == ("p0.png", "p1", "p2")
        Path(folder.val).write_text("p7\np0.png\n")
        with pytest.raises(UserError, match=r"data.labeled and data.val share .*'p0.png'"):
            open_sources(folder, "supervised")

    def test_classes_that_no_mask_shows(self, folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ["background", "cat", "dog", "cow", "hen", "pig", "owl", "fox", "bee"]
        Path(folder.classes).write_text("\n".join(names))
        (note,) = open_sources(folder, "supervised").notes
        assert note.startswith(
            "no mask of data.labeled shows cow, hen, pig, owl, fox and 1 more, which the network"
        )
        # Of more masks some are looked at.
        monkeypatch.setattr("pseudoseg_tf.data.sources._MASKS_CHECKED", 2)
        assert open_sources(folder, "supervised").notes == ()

    def test_supervised_reads_no_unlabeled_list(self, folder: DataConfig) -> None:
        assert open_sources(dataclasses.replace(folder, unlabeled=""), "supervised").unlabeled is None

    def test_masks_of_unlabeled_images_come_along(self, folder: DataConfig) -> None:
        give_masks(folder)
        unlabeled = open_sources(folder, "unlabeled").unlabeled
        assert unlabeled is not None
        check(unlabeled, [3, 4, 5, 6])

    def test_some_masks(self, folder: DataConfig) -> None:
        give_masks(folder, [4])
        unlabeled = open_sources(folder, "unlabeled").unlabeled
        assert unlabeled is not None and not unlabeled.has_masks
        assert [unlabeled.read(index).mask is None for index in range(4)] == [True, False, True, True]

    def test_spelling_of_ids_and_files(self, folder: DataConfig, tmp_path: Path) -> None:
        # JPEG in capitals in a subfolder, a full name where two files share a stem, a stem with a dot.
        (tmp_path / "images/sub").mkdir()
        (tmp_path / "masks/sub").mkdir()
        Image.fromarray(picture(1)).save(tmp_path / "images/sub/x.JPEG", "JPEG", quality=100)
        Image.fromarray(labels_of(1)).save(tmp_path / "masks/sub/x.PNG", "PNG")
        Image.fromarray(picture(1)).save(tmp_path / "images/p1.jpg")
        Path(tmp_path / "images/p0.png").rename(tmp_path / "images/p.0.png")
        Path(tmp_path / "masks/p0.png").rename(tmp_path / "masks/p.0.png")
        Path(folder.labeled).write_text("./p.0\r\np1.png\r\nsub/x\r\n")
        labeled = open_sources(folder, "supervised").labeled
        assert list(labeled.ids) == ["p.0", "p1", "sub/x"]
        assert labeled.read(1).image == Path(tmp_path / "images/p1.png").read_bytes()
        np.testing.assert_array_equal(decode_record(labeled.read(2), 3)[1], labels_of(1))

    def test_data_without_a_background(self, folder: DataConfig, tmp_path: Path) -> None:
        """Class 0 is then a class as the others: in image-level labels, and alone in the masks."""
        labels = tmp_path / "labels.csv"
        labels.write_text("p3,background,dog\np4\np5\np6,cat\n")
        for number in range(3):
            put_mask(number, np.zeros([6, 8], np.uint8))(folder)
        folder = dataclasses.replace(folder, image_labels=str(labels))
        with pytest.raises(UserError, match="which is no class but the background"):
            open_sources(folder, "weakly")
        without = dataclasses.replace(folder, background="none")
        sources = open_sources(without, "weakly")
        assert not sources.info.has_background and sources.unlabeled is not None
        np.testing.assert_array_equal(sources.unlabeled.read(0).image_labels, [1, 0, 1])

    def test_each_directory_is_listed_once(self, folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = []
        scandir = os.scandir

        def recorded(path: Any) -> Any:
            listed.append(os.path.normpath(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", recorded)
        open_sources(folder, "unlabeled")
        assert sorted(listed) == sorted([folder.images, folder.masks])

    def test_overlap_of_labeled_and_unlabeled_is_noted(self, folder: DataConfig) -> None:
        Path(folder.unlabeled).write_text("p3\np1\np0\n")
        assert open_sources(folder, "unlabeled").notes == (
            "unlabeled pool: 3 images, 2 labeled ones among them (data.exclude_labeled=true would leave those "
            "out)",
        )

    def test_labeled_images_left_out_of_the_pool(self, folder: DataConfig) -> None:
        Path(folder.unlabeled).write_text("p5\np1\np3\np0.png\n")
        sources = open_sources(dataclasses.replace(folder, exclude_labeled=True), "unlabeled")
        assert sources.unlabeled is not None
        check(sources.unlabeled, [5, 3], with_masks=False)
        check(sources.labeled, [0, 1, 2])
        assert sources.notes == (
            "unlabeled pool: 2 images, the 4 of data.unlabeled without 2 labeled ones "
            "(data.exclude_labeled=true)",
        )

    def test_masks_of_the_pool_that_is_left(self, folder: DataConfig) -> None:
        Path(folder.unlabeled).write_text("p1\np7\n")
        Path(folder.val).write_text("p8\n")
        excluding = dataclasses.replace(folder, exclude_labeled=True)
        for mode in ("unlabeled", "weakly"):
            unlabeled = open_sources(excluding, mode).unlabeled
            assert unlabeled is not None
            check(unlabeled, [7])

    def test_nothing_to_leave_out(self, folder: DataConfig) -> None:
        sources = open_sources(dataclasses.replace(folder, exclude_labeled=True), "unlabeled")
        assert sources.unlabeled is not None
        check(sources.unlabeled, [3, 4, 5, 6], with_masks=False)
        assert sources.notes == ("unlabeled pool: 4 images, none of them labeled",)

    def test_nothing_left_of_the_pool(self, folder: DataConfig) -> None:
        Path(folder.unlabeled).write_text("p0\np2\n")
        with pytest.raises(UserError, match=r"^data.exclude_labeled: found 'true', but all 2 images of data"):
            open_sources(dataclasses.replace(folder, exclude_labeled=True), "unlabeled")

    def test_vanished_file(self, folder: DataConfig, tmp_path: Path) -> None:
        labeled = open_sources(folder, "supervised").labeled
        (tmp_path / "masks/p1.png").unlink()
        with pytest.raises(UserError, match=r"masks/p1.png: cannot be read \(No such file"):
            labeled.read(1)


PALETTE = "background 0 0 0\ncat 200 0 0\ndog 0 100 0\nignore 255 255 255\n"
COLORS = {0: (0, 0, 0), 1: (200, 0, 0), 2: (0, 100, 0), 255: (255, 255, 255)}


def colored(labels: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[list(COLORS)] = list(COLORS.values())
    return table[labels]


class TestEncodings:
    @staticmethod
    def with_palette(folder: DataConfig, text: str = PALETTE, **changes: str) -> DataConfig:
        path = Path(folder.labeled).with_name("colors.txt")
        path.write_text(text)
        return dataclasses.replace(folder, palette=str(path), **changes)  # type: ignore[arg-type]

    def test_color_masks(self, folder: DataConfig) -> None:
        """Some masks in colors, others of ids: what they give is the same."""
        for number in (0, 1, 8, 9):
            Image.fromarray(colored(labels_of(number))).save(f"{folder.masks}/p{number}.png")
        sources = open_sources(self.with_palette(folder), "unlabeled")
        assert sources.info.class_names == ("background", "cat", "dog")
        assert sources.info.palette == ((0, 0, 0), (200, 0, 0), (0, 100, 0))
        check(sources.labeled, [0, 1, 2])
        check(sources.val, [7, 8, 9])

    def test_color_masks_train_and_score_like_class_ids(self, folder: DataConfig) -> None:
        data = self.with_palette(
            dataclasses.replace(folder, crop_size=(17, 17), batch_labeled=3, eval_size=(17, 17), eval_batch=3)
        )

        def batches() -> list[np.ndarray]:
            sources = open_sources(data, "supervised")
            training = training_dataset(sources, data, "supervised", 0).take(2)
            evaluation = evaluation_dataset(sources.val, data, 3)
            return [batch["labeled"]["labels"].numpy() for batch in training] + [
                batch["labels"].numpy() for batch in evaluation
            ]

        of_ids = batches()
        for number in (0, 1, 2, 7, 8, 9):
            Image.fromarray(colored(labels_of(number))).save(f"{folder.masks}/p{number}.png")
        np.testing.assert_array_equal(batches(), of_ids)
        assert {0, 1, 2, 255} <= set(np.unique(of_ids))

    def test_color_masks_in_shards(self, shards: DataConfig, tmp_path: Path) -> None:
        records = [
            example(number, image_segmentation_class_encoded=png(colored(labels_of(number))))
            for number in range(2)
        ]
        write_shard(tmp_path / "train-0", records)
        (tmp_path / "colors.txt").write_text(PALETTE)
        sources = open_sources(
            dataclasses.replace(shards, palette=str(tmp_path / "colors.txt")), "supervised"
        )
        check(sources.labeled, [0, 1, 2])

    def test_names_from_the_palette_file(self, folder: DataConfig) -> None:
        info = open_sources(self.with_palette(folder, classes=""), "supervised").info
        assert info == DatasetInfo(
            ("background", "cat", "dog"),
            ((0, 0, 0), (200, 0, 0), (0, 100, 0)),
            Path(folder.labeled).parent.name,
        )

    def test_other_names_than_data_classes(self, folder: DataConfig) -> None:
        with pytest.raises(
            UserError, match=r"^data.palette: .*colors.txt names 'dog' for class id 1, data.cl"
        ):
            open_sources(self.with_palette(folder, "background 0 0 0\ndog 9 9 9\ncat 8 8 8\n"), "supervised")

    def test_strange_color(self, folder: DataConfig) -> None:
        picture = colored(labels_of(1))
        picture[2, 3] = (199, 1, 0)
        Image.fromarray(picture).save(f"{folder.masks}/p1.png")
        with pytest.raises(
            UserError, match=r"^mask p1: the color 199 1 0 at row 2, column 3 .*nearest: 200 0 0 \(class 1\)"
        ):
            open_sources(self.with_palette(folder), "supervised")

    def test_binary_masks(self, folder: DataConfig) -> None:
        Path(folder.classes).write_text("background\nthing\n")
        for number in (0, 1, 2, 7, 8, 9):
            Image.fromarray(np.where(labels_of(number) == 255, 255, 0).astype(np.uint8)).save(
                f"{folder.masks}/p{number}.png"
            )
        sources = open_sources(dataclasses.replace(folder, binary_masks=True), "unlabeled")
        for source in (sources.labeled, sources.val):
            for index in range(len(source)):
                labels = decode_record(source.read(index), 2)[1]
                assert labels[0, 0] == 1 and labels.sum() == 1

    def test_binary_masks_are_of_two_classes(self, folder: DataConfig) -> None:
        with pytest.raises(
            UserError, match=r"^data.binary_masks: found 'true' with 3 names in data.classes; bl"
        ):
            open_sources(dataclasses.replace(folder, binary_masks=True), "supervised")


class TestUnchecked:
    """Sources opened without looking for mistakes: each shows when its record is read."""

    def test_folder(self, folder: DataConfig) -> None:
        Path(folder.labeled).write_text("p0\np11\np3\n")
        put_mask(0, labels_of(0, (5, 5)))(folder)
        _, open_one = opener(folder)
        source = open_one(folder.labeled, "data.labeled", need_masks=True, check=False)
        assert source.ids == ("p0", "p11", "p3") and not source.has_masks
        assert source.read(0).mask == Path(f"{folder.masks}/p0.png").read_bytes()
        assert source.read(2).mask is None
        with pytest.raises(
            UserError,
            match=r"^data.labeled: .*labeled.txt: 'p11' has no image \(.jpg, .jpeg, .png\) in data.images .* "
            r"\(did you mean 'p1'\?\); add the image or take the id off the list \(a line holds",
        ):
            source.read(1)
        deeper = Path(folder.images, "more")
        deeper.mkdir()
        Path(folder.images, "p1.png").rename(deeper / "p11.png")
        source = opener(folder)[1](folder.labeled, "data.labeled", need_masks=True, check=False)
        with pytest.raises(
            UserError, match=r"no image .* \(there is one in a folder: its id is 'more/p11'\);"
        ):
            source.read(1)

    def test_tfrecord(self, shards: DataConfig, tmp_path: Path) -> None:
        small = png(labels_of(0, (5, 5)))
        records = [
            example(0, image_segmentation_class_encoded=small),
            example(1, without=NO_MASK),
        ]
        path = write_shard(tmp_path / "odd", records)
        source = TFRecordSource(INFO, path, "data.labeled", need_masks=True, check=False)
        assert not source.has_masks
        assert [source.read(index).mask for index in range(2)] == [small, None]

    def test_tfds(self, prepared: DataConfig) -> None:
        _, open_one = opener(prepared)
        source = open_one("odd", "data.labeled", need_masks=True, check=False)
        assert decode_image(source.read(0).image, "p0").shape == (6, 9, 3)


class TestSkipping:
    """data.on_bad_example=skip: what is wrong with one image or mask is left to training, from every kind of source."""

    @pytest.fixture(params=["folder", "tfrecord", "tfds"])
    def damaged(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataConfig, int]:
        """Three labeled records and the number of the one that cannot be used."""
        name = {"folder": "folder", "tfrecord": "shards", "tfds": "prepared"}[request.param]
        data = request.getfixturevalue(name)
        if request.param == "folder":
            put_mask(1, np.full((6, 8), 9, np.uint8))(data)
            return data, 1
        if request.param == "tfrecord":
            content = bytearray((tmp_path / "train-0").read_bytes())
            content[12 + len(example(0)) + 4 + 12 + 20] ^= 1
            (tmp_path / "train-0").write_bytes(content)
            return data, 1
        # The image of odd is wider than its mask.
        return dataclasses.replace(data, labeled="odd+train[1:3]"), 0

    def test_training(self, damaged: tuple[DataConfig, int], tmp_path: Path) -> None:
        data, number = damaged
        skipping = dataclasses.replace(
            data, on_bad_example="skip", crop_size=(17, 17), batch_labeled=3, min_scale=1.0, max_scale=1.0
        )
        with pytest.raises(UserError):
            open_sources(data, "supervised")
        sources = open_sources(skipping, "supervised")
        bad = BadExamples(tmp_path / "bad_examples.txt", 1)
        dataset = training_dataset(sources, skipping, "supervised", 0, bad_examples=bad)
        batches = dataset.take(4).as_numpy_iterator()
        examples = [batch["labeled"] for batch in batches]
        seen = {int(each["image"][k][each["valid"][k] > 0].max()) for each in examples for k in range(3)}
        assert seen == {0, 1, 2} - {number}
        ((record_id, reason),) = [
            line.split("\t") for line in (tmp_path / "bad_examples.txt").read_text().splitlines()
        ]
        assert (record_id, reason) == {
            "folder": (
                "p1",
                f"mask {tmp_path}/masks/p1.png: pixel values 9; allowed are the class ids 0 to 2 and 255 (ignored): "
                "save class ids as pixel values, or name all classes",
            ),
            "tfrecord": (
                f"{tmp_path}/train-0 record 2",
                f"{tmp_path}/train-0 record 2 (at byte {12 + len(example(0)) + 4 + 12}) is damaged: its checksum is "
                "another; write the shard again",
            ),
            "tfds": (
                "p0",
                "image p0 (data.labeled=odd+train[1:3]) is 9x6 pixels (width x height), but mask p0 "
                "(data.labeled=odd+train[1:3]) is 8x6; they must be equal",
            ),
        }[data.source]

    def test_missing_masks_are_not_left_out(self, folder: DataConfig) -> None:
        Path(f"{folder.masks}/p1.png").unlink()
        with pytest.raises(
            UserError, match=r"^data.labeled=.*: 1 of 3 records have no mask, first 'p1'; name"
        ):
            open_sources(dataclasses.replace(folder, on_bad_example="skip"), "supervised")

    def test_what_is_scored_must_be_right(self, folder: DataConfig) -> None:
        put_mask(8, np.full((6, 8), 9, np.uint8))(folder)
        with pytest.raises(UserError, match=r"^mask p8: pixel values 9; "):
            open_sources(dataclasses.replace(folder, on_bad_example="skip"), "supervised")


def write(key: str, text: str) -> Callable[[DataConfig], DataConfig]:
    """Another content for the file that a key names."""

    def change(data: DataConfig) -> DataConfig:
        Path(getattr(data, key)).write_text(text)
        return data

    return change


def replace(**values: str) -> Callable[[DataConfig], DataConfig]:
    return lambda data: dataclasses.replace(data, **values)  # type: ignore[arg-type]


def put_mask(number: int, array: np.ndarray) -> Callable[[DataConfig], DataConfig]:
    def change(data: DataConfig) -> DataConfig:
        Image.fromarray(array).save(f"{data.masks}/p{number}.png")
        return data

    return change


def second_file(data: DataConfig) -> DataConfig:
    shutil.copy(f"{data.images}/p1.png", f"{data.images}/p1.jpg")
    return data


def black_and_white(data: DataConfig) -> DataConfig:
    for number in range(3):
        put_mask(number, np.where(labels_of(number) == 0, 0, 255).astype(np.uint8))(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(images=""), r"^data.images: \(empty\) is not a folder"),
        (replace(images="/nowhere/x"), r"^data.images: /nowhere/x is not a folder; give the path of one"),
        (replace(masks="/nowhere/x"), r"^data.masks: /nowhere/x is not a folder"),
        (replace(classes="/nowhere/x"), r"^data.classes: /nowhere/x: cannot be read"),
        (replace(labeled=""), r"^data.labeled is empty; it must name a text file"),
        (replace(unlabeled="/nowhere/x"), r"^data.unlabeled: /nowhere/x: cannot be read"),
        (write("val", ""), r"^data.val: .*val.txt holds no ids"),
        (write("labeled", "p0\np0\n"), r"^data.labeled: .*labeled.txt repeats 1 id \('p0'\)"),
        (
            write("labeled", "p0\np11\nq\n"),
            r"^data.labeled: .*labeled.txt: 2 of 3 ids have no image \(.jpg, .jpeg, .png\) in data.images "
            r".*images, first 'p11' \(did you mean 'p1'\?\); add the image or take the id off the list",
        ),
        (write("unlabeled", "nowhere/p3\n"), r"1 of 1 ids have no image .* first 'nowhere/p3'; add"),
        (
            write("labeled", "images/p0.png masks/p0.png\n"),
            r"first 'images/p0.png masks/p0.png'; .*\(a line holds one id and nothing else\)",
        ),
        (write("labeled", "p0\np3\n"), r"1 of 2 ids have no mask \(.png\) in data.masks .*, first 'p3'"),
        (write("val", "p7\np3\n"), r"^data.val: .* 1 of 2 ids have no mask"),
        (write("labeled", "p0\n../p1\n"), r"holds '\.\./p1'; ids are paths in the image folder"),
        (
            second_file,
            r"^data.images: .*images.? holds p1.jpg and p1.png for the id 'p1'; write the file name",
        ),
        (
            write("val", "p7\np1\np0\n"),
            r"^data.labeled and data.val share 2 ids \('p0', 'p1'\); what is scored",
        ),
        (write("unlabeled", "p3\np8.png\n"), r"^data.unlabeled and data.val share 1 id \('p8'\)"),
        (put_mask(1, labels_of(1, (8, 6))), r"images/p1.png is 8x6 pixels .*/masks/p1.png is 6x8; they must"),
        (put_mask(9, labels_of(9, (6, 9))), r"images/p9.png is 8x6 pixels .*/masks/p9.png is 9x6; they must"),
        (put_mask(2, np.full((6, 8), 7, np.uint8)), r"^mask p2: pixel values 7; allowed are"),
        (put_mask(8, picture(1)), r"^mask p8: stored as a color picture"),
        (
            black_and_white,
            r"^data.labeled: the 3 masks looked at hold the values 0, 255 alone, which is no class but the "
            r"background",
        ),
    ],
)
def test_folder_mistakes(
    folder: DataConfig, change: Callable[[DataConfig], DataConfig], message: str
) -> None:
    folder = change(folder)
    with pytest.raises(UserError, match=message) as error:
        open_sources(folder, "unlabeled")
    assert "\n" not in str(error.value)


def test_unlistable_folder(folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"^data.images: .*images.? cannot be listed \(Permission denied\)"):
        open_sources(folder, "supervised")


def test_folder_vanishing_between_listing_and_size_check(
    folder: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "p0.png")

    monkeypatch.setattr("pseudoseg_tf.data.folder.check_sizes", refuse)
    with pytest.raises(UserError, match=r"^p0.png: cannot be read \(No such file or directory\)"):
        open_sources(folder, "supervised")


def test_masks_looked_at_are_spread_over_the_list(
    folder: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_MASKS_CHECKED", 2)
    looked_at = []
    read = FolderSource.read

    def recorded(self: FolderSource, index: int) -> Any:
        looked_at.append(self.ids[index])
        return read(self, index)

    monkeypatch.setattr(FolderSource, "read", recorded)
    Path(folder.labeled).write_text("p0\np1\np2\np7\n")
    Path(folder.val).write_text("p8\n")
    open_sources(folder, "supervised")
    assert looked_at == ["p0", "p2", "p8"]


class TestWeakly:
    @staticmethod
    def open(folder: DataConfig, rows: str | None) -> Sources:
        if rows is not None:
            path = Path(folder.labeled).with_name("tags.csv")
            path.write_text(rows)
            folder = dataclasses.replace(folder, image_labels=str(path))
        return open_sources(folder, "weakly")

    def test_labels_from_rows(self, folder: DataConfig) -> None:
        sources = self.open(folder, "p6,dog\np4.png\np5,cat,dog\np3,cat\nother,cat\n")
        assert sources.unlabeled is not None
        labels = [sources.unlabeled.read(index).image_labels for index in range(4)]
        np.testing.assert_array_equal(np.stack(labels), [[1, 0], [0, 0], [1, 1], [0, 1]])  # type: ignore[arg-type]
        assert sources.labeled.read(0).image_labels is None
        assert sources.notes == ("unlabeled pool: 4 images, none of them labeled",)

    def test_labels_from_masks(self, folder: DataConfig) -> None:
        give_masks(folder)
        sources = self.open(folder, None)
        assert sources.unlabeled is not None and sources.unlabeled.read(0).image_labels is None
        assert sources.notes[1:] == ("image-level labels of 4 of 4 unlabeled images come from their masks",)

    def test_rows_and_masks(self, folder: DataConfig) -> None:
        give_masks(folder, [3, 4])
        sources = self.open(folder, "p5,cat\np6,dog\n")
        assert sources.notes[1:] == ("image-level labels of 2 of 4 unlabeled images come from their masks",)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (
                None,
                r"^data.image_labels: 4 of 4 .* neither an entry in a CSV file \(the key is empty\) nor a mask",
            ),
            (
                "p3,cat\np4,dog\n",
                r"^data.image_labels: 2 of 4 .* in .*tags.csv nor a mask, first 'p5'; train.mode",
            ),
            ("p3,bird\n", r"^data.image_labels: .*tags.csv line 1 names 'bird'"),
        ],
    )
    def test_mistakes(self, folder: DataConfig, rows: str | None, message: str) -> None:
        with pytest.raises(UserError, match=message):
            self.open(folder, rows)

    def test_rows_are_read_in_this_mode_only(self, folder: DataConfig) -> None:
        open_sources(dataclasses.replace(folder, image_labels="/nowhere/x"), "unlabeled")
        with pytest.raises(UserError, match=r"^data.image_labels: /nowhere/x: cannot be read"):
            open_sources(dataclasses.replace(folder, image_labels="/nowhere/x"), "weakly")


# TFRecord shards


def example(number: int, without: Sequence[str] = (), **changes: bytes) -> bytes:
    """A record as DeepLab's converters write it."""
    features = {
        "image/encoded": png(picture(number)),
        "image/filename": b"p%d" % number,
        "image/format": b"png",
        "image/segmentation/class/encoded": png(labels_of(number)),
        "image/segmentation/class/format": b"png",
    } | {key.replace("_", "/"): value for key, value in changes.items()}
    message = tf.train.Example()
    for key, value in features.items():
        if key not in without:
            message.features.feature[key].bytes_list.value.append(value)
    message.features.feature["image/height"].int64_list.value.append(6)
    message.features.feature["image/width"].int64_list.value.append(8)
    return message.SerializeToString()


def write_shard(path: Path, records: Sequence[bytes], **options: Any) -> str:
    with tf.io.TFRecordWriter(str(path), **options) as writer:
        for record in records:
            writer.write(record)
    return str(path)


NO_MASK = ("image/segmentation/class/encoded", "image/segmentation/class/format")


@pytest.fixture
def shards(tmp_path: Path) -> DataConfig:
    write_shard(tmp_path / "train-0", [example(0), example(1)])
    write_shard(tmp_path / "train-1", [example(2)])
    write_shard(tmp_path / "more", [example(number, without=NO_MASK) for number in range(3, 7)])
    write_shard(tmp_path / "val", [example(7, image_filename=b"p7.jpg"), example(8)])
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    return DataConfig(
        source="tfrecord",
        classes=str(tmp_path / "classes.txt"),
        labeled=str(tmp_path / "train-*"),
        unlabeled=str(tmp_path / "more"),
        val=str(tmp_path / "val"),
    )


class TestTFRecord:
    open = staticmethod(functools.partial(TFRecordSource, INFO, key="data.labeled", need_masks=True))

    def test_what_they_give(self, shards: DataConfig) -> None:
        sources = open_sources(shards, "unlabeled")
        check(sources.labeled, [0, 1, 2])
        check(sources.val, [7, 8])
        assert list(sources.val.ids) == ["p7", "p8"]
        assert sources.unlabeled is not None
        check(sources.unlabeled, [3, 4, 5, 6], with_masks=False)

    def test_several_patterns(self, shards: DataConfig) -> None:
        check(self.open(f"{shards.val}, {shards.labeled}"), [7, 8, 0, 1, 2])

    def test_image_labels(self, shards: DataConfig, tmp_path: Path) -> None:
        (tmp_path / "tags.csv").write_text("p3,cat\np4,dog\np5\np6,cat\n")
        weakly = dataclasses.replace(shards, image_labels=str(tmp_path / "tags.csv"))
        unlabeled = open_sources(weakly, "weakly").unlabeled
        assert unlabeled is not None
        np.testing.assert_array_equal(unlabeled.read(1).image_labels, [0, 1])

    def test_list_of_ids_in_shards(self, shards: DataConfig, tmp_path: Path) -> None:
        # Only the records listed need masks; their order is the list's.
        (tmp_path / "list.txt").write_text("p2.jpg\np0\n")
        patterns = f"{tmp_path}/train-[01],{tmp_path}/more:{tmp_path}/list.txt"
        sources = open_sources(dataclasses.replace(shards, labeled=patterns), "unlabeled")
        check(sources.labeled, [2, 0])
        (tmp_path / "list.txt").write_text("p6\np4\n")
        listed = dataclasses.replace(shards, unlabeled=f"{tmp_path}/more:{tmp_path}/list.txt")
        unlabeled = open_sources(listed, "unlabeled").unlabeled
        assert unlabeled is not None
        check(unlabeled, [6, 4], with_masks=False)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ("p0\np3\np4\n", r"^data.labeled=.*list.txt: 2 of 3 records have no mask, first 'p3'; name"),
            (
                "p0\np7\nq\n",
                r"^data.labeled=.*list.txt: 2 of 3 ids are not among the 7 records of .*more, first 'p7' \(there, "
                r"for example: 'p0'\); give the whole data set if this is a part of it, or a list",
            ),
            ("p0\np0\n", r"^data.labeled: .*list.txt repeats 1 id \('p0'\)"),
            ("", r"^data.labeled: .*list.txt holds no ids"),
        ],
    )
    def test_bad_lists(self, shards: DataConfig, tmp_path: Path, ids: str, message: str) -> None:
        (tmp_path / "list.txt").write_text(ids)
        patterns = f"{shards.labeled},{shards.unlabeled}:{tmp_path}/list.txt"
        with pytest.raises(UserError, match=message) as error:
            open_sources(dataclasses.replace(shards, labeled=patterns), "supervised")
        assert "\n" not in str(error.value)

    def test_pool_without_labeled_images(self, shards: DataConfig, tmp_path: Path) -> None:
        everything = dataclasses.replace(
            shards, unlabeled=f"{tmp_path}/train-*,{tmp_path}/more", exclude_labeled=True
        )
        sources = open_sources(everything, "unlabeled")
        assert sources.unlabeled is not None
        check(sources.unlabeled, [3, 4, 5, 6], with_masks=False)
        assert sources.notes[0].startswith(
            "unlabeled pool: 4 images, the 7 of data.unlabeled without 3 labeled"
        )

    @pytest.mark.parametrize("patterns", ["", "nothing-*", "train-0,nothing"])
    def test_no_file_fits(self, shards: DataConfig, tmp_path: Path, patterns: str) -> None:
        paths = ",".join(str(tmp_path / name) for name in patterns.split(",")) if patterns else ""
        with pytest.raises(UserError, match=r"^data.labeled: no file fits '.*'; give a pattern such as"):
            self.open(paths)

    def test_the_same_shard_twice(self, shards: DataConfig, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^data.labeled: .* repeats 1 id \('.*train-1'\)"):
            self.open(f"{shards.labeled},{tmp_path}/train-1")

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            (b"\xff\xff\xff", r"shard record 1 \(at byte 12\) is not a tf.train.Example"),
            (
                example(0, without=["image/encoded"]),
                r"record 1 \(at byte 12\) has no image/encoded; it needs",
            ),
            (
                example(0, without=["image/filename"]),
                r"record 1 \(at byte 12\) has no image/filename; it needs",
            ),
            (
                example(0, without=NO_MASK),
                r"^data.labeled: p0 \(.*shard record 1\) has no image/segmentation/class/e",
            ),
            (
                example(0, image_encoded=png(picture(0, (8, 8)))),
                r"^image p0 \(.*shard record 1\) is 8x8 .*mask p0 \(.*shard record 1\) is 8x6",
            ),
            (
                example(0, image_encoded=b"text"),
                r"^image p0 \(.*shard record 1\): neither a JPEG nor a PNG file",
            ),
        ],
    )
    def test_bad_records(self, tmp_path: Path, record: bytes, message: str) -> None:
        with pytest.raises(UserError, match=message):
            self.open(write_shard(tmp_path / "shard", [record]))

    def test_ids_repeat(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^data.labeled: .*shard repeats 1 id \('p0'\)"):
            self.open(write_shard(tmp_path / "shard", [example(0), example(1), example(0)]))

    def test_no_records(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^data.labeled: .*shard holds no records"):
            self.open(write_shard(tmp_path / "shard", []))

    @pytest.mark.parametrize("damage", ["compressed", "cut", "cut header", "length", "other"])
    def test_damaged_shards(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "shard"
        write_shard(path, [example(0), example(1)], options="GZIP" if damage == "compressed" else None)
        content = bytearray(path.read_bytes())
        second = 12 + len(example(0)) + 4
        if damage == "cut":
            del content[-1]
        elif damage == "cut header":
            del content[second + 5 :]
        elif damage == "length":
            content[second] ^= 1
        elif damage == "other":
            content[:] = b"just a text file"
        path.write_bytes(content)
        place = "1, at byte 0" if damage in ("compressed", "other") else f"2, at byte {second}"
        with pytest.raises(UserError, match=rf"shard: not a TFRecord file, .* \(record {place}\)"):
            self.open(str(path))

    def test_flipped_bit(self, tmp_path: Path) -> None:
        """Of a picture: decoding alone might not notice."""
        path = tmp_path / "shard"
        write_shard(path, [example(0), example(1), example(2)])
        source = self.open(str(path))
        content = bytearray(path.read_bytes())
        second = 12 + len(example(0)) + 4
        content[second + 12 + len(example(1)) // 2] ^= 8
        path.write_bytes(content)
        message = (
            rf"shard record 2 \(at byte {second + 12}\) is damaged: its checksum is another; write the shard"
        )
        with pytest.raises(UserError, match=message):
            source.read(1)
        with pytest.raises(UserError, match=message):
            self.open(str(path))
        unchecked = self.open(str(path), check=False)
        assert unchecked.ids == ("p0", f"{path} record 2", "p2") and unchecked.has_masks
        assert [unchecked.read(index).id for index in (0, 2)] == ["p0", "p2"]
        with pytest.raises(UserError, match=message):
            unchecked.read(1)

    def test_a_record_that_claims_gigabytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_shard(tmp_path / "shard", [example(0)])
        monkeypatch.setattr(tfrecord, "_MAX_RECORD_BYTES", len(example(0)) - 1)
        with pytest.raises(
            UserError, match=r"shard record 1: [0-9,]+ bytes, at most [0-9,]+ are read; make it"
        ):
            self.open(path)

    def test_a_directory_is_no_shard(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=rf"^{tmp_path}: cannot be read \("):
            self.open(str(tmp_path))

    def test_vanished_shard(self, tmp_path: Path) -> None:
        source = self.open(write_shard(tmp_path / "shard", [example(0)]))
        (tmp_path / "shard").unlink()
        with pytest.raises(UserError, match=r"shard: cannot be read \(.*No such file"):
            source.read(0)


# TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Builder tiny_scenes, prepared once: split train is pictures 0..6, val 7..8, odd of wrong size."""
    import tensorflow_datasets as tfds

    class TinyScenes(tfds.core.GeneratorBasedBuilder):
        # Not the name of this file: TFDS would look for more of the data set beside it.
        __module__ = "tiny_scenes"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(class_names=list(INFO.class_names), palette=[[9, 9, 9]] * 3),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {
                "train": self._generate_examples(range(7)),
                "val": self._generate_examples(range(7, 9)),
                "odd": self._generate_examples(range(1), width=9),
            }

        def _generate_examples(self, numbers: Sequence[int], width: int = 8) -> Any:
            for number in numbers:
                image, label = picture(number, (6, width)), labels_of(number)[..., None]
                yield number, {"image": image, "label": label, "id": f"p{number}"}

    class NamelessScenes(TinyScenes):
        __module__ = "tiny_scenes"

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(builder=self, features=super()._info().features)

    class Streets(TinyScenes):
        __module__ = "tiny_scenes"

        def _info(self) -> tfds.core.DatasetInfo:
            metadata = tfds.core.MetadataDict(class_names=list(INFO.class_names), background=None)
            return tfds.core.DatasetInfo(builder=self, features=super()._info().features, metadata=metadata)

    class OtherScenes(TinyScenes):
        __module__ = "tiny_scenes"

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=super()._info().features,
                metadata=tfds.core.MetadataDict(class_names=["background", "car", "tree"]),
                disable_shuffling=True,
            )

        def _generate_examples(self, numbers: Sequence[int], width: int = 8) -> Any:
            for number, example in super()._generate_examples(numbers, width):
                yield number, {**example, "id": f"other{number}"}

    class Photos(TinyScenes):
        __module__ = "tiny_scenes"

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"photo": tfds.features.Image(), "id": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    return DataConfig(
        source="tfds",
        name="tiny_scenes",
        data_dir=str(tmp_path_factory.mktemp("tfds")),
        labeled="train[:3]",
        unlabeled="train[3:]",
        val="val",
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the published splits of tiny_scenes: some/1 is p5, p0, p3; all is not there."""
    content = b"p5\np0\np3\n"
    some = split_catalog._List(
        "tiny/some.txt", "https://nowhere.invalid", hashlib.sha256(content).hexdigest()
    )
    every = split_catalog._List("tiny/all.txt", "https://nowhere.invalid", "")
    monkeypatch.setattr(split_catalog, "_LISTS", {"tiny_scenes": {"some/1": some, "all": every}})
    monkeypatch.setattr(split_catalog, "_BASE_SPLIT", {"tiny_scenes": "train"})
    (tmp_path / "published").mkdir()
    (tmp_path / "published/some.txt").write_bytes(content)
    return tmp_path / "published"


class TestTFDS:
    def test_what_they_give(self, prepared: DataConfig) -> None:
        sources = open_sources(prepared, "unlabeled")
        assert sources.info == DatasetInfo(INFO.class_names, ((9, 9, 9),) * 3, "tiny_scenes")
        check(sources.labeled, [0, 1, 2])
        check(sources.val, [7, 8])
        assert sources.unlabeled is not None
        check(sources.unlabeled, [3, 4, 5, 6])
        assert sources.notes == ("unlabeled pool: 4 images, none of them labeled",)

    def test_named_split(self, prepared: DataConfig, published: Path) -> None:
        named = dataclasses.replace(prepared, labeled="some/1", unlabeled="train", splits_dir=str(published))
        sources = open_sources(named, "unlabeled")
        check(sources.labeled, [5, 0, 3])
        assert sources.unlabeled is not None
        check(sources.unlabeled, [0, 1, 2, 3, 4, 5, 6])
        assert sources.notes == (
            "unlabeled pool: 7 images, 3 labeled ones among them (data.exclude_labeled=true would leave those "
            "out)",
            "no mask of data.labeled shows cat, which the network will miss: label an image of each that you want "
            "(pseudoseg-check-data counts classes)",
        )
        without = open_sources(dataclasses.replace(named, exclude_labeled=True), "unlabeled")
        assert without.unlabeled is not None
        check(without.unlabeled, [1, 2, 4, 6])

    def test_lists_of_ids_in_splits(self, prepared: DataConfig, published: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("p6\np2\n")
        listed = dataclasses.replace(
            prepared,
            labeled=f"train[2:]:{tmp_path}/mine.txt",
            unlabeled="train[:6]:some/1",
            splits_dir=str(published),
        )
        sources = open_sources(listed, "unlabeled")
        check(sources.labeled, [6, 2])
        assert sources.unlabeled is not None
        check(sources.unlabeled, [5, 0, 3])

    def test_parts_of_splits(self, prepared: DataConfig) -> None:
        parts = dataclasses.replace(prepared, labeled="train[-2:]+train[1:3]", val="val[50%:]")
        sources = open_sources(parts, "supervised")
        check(sources.labeled, [5, 6, 1, 2])
        check(sources.val, [8])

    def test_unlabeled_images_of_another_data_set(self, prepared: DataConfig, tmp_path: Path) -> None:
        others = dataclasses.replace(prepared, unlabeled_name="other_scenes", unlabeled="train[5:]")
        sources = open_sources(others, "unlabeled")
        assert sources.info.name == "tiny_scenes"
        check(sources.labeled, [0, 1, 2])
        assert sources.unlabeled is not None
        assert sources.unlabeled.ids == ("other5", "other6")
        assert sources.unlabeled.info == sources.info
        # Its masks mean cars and trees, not cats and dogs.
        assert not sources.unlabeled.has_masks and not sources.unlabeled.has_mask(0)
        record = sources.unlabeled.read(1)
        assert record.mask is None
        np.testing.assert_array_equal(decode_image(record.image, "other6"), picture(6))
        with pytest.raises(
            UserError, match=r"^data.image_labels: 2 of 2 images of data.unlabeled have neither"
        ):
            open_sources(others, "weakly")
        (tmp_path / "tags.csv").write_text("other5,cat\nother6,dog\n")
        open_sources(dataclasses.replace(others, image_labels=str(tmp_path / "tags.csv")), "weakly")

    def test_unlabeled_images_of_a_data_set_with_the_same_classes(self, prepared: DataConfig) -> None:
        same = dataclasses.replace(prepared, unlabeled_name="streets")
        sources = open_sources(same, "weakly")
        assert sources.unlabeled is not None
        assert sources.unlabeled.has_masks and sources.unlabeled.has_mask(0)
        # Not of "streets", which has no background.
        assert sources.unlabeled.info == sources.info and sources.info.has_background
        assert sources.unlabeled.read(0).mask is not None
        assert sources.notes[1:] == ("image-level labels of 4 of 4 unlabeled images come from their masks",)

    def test_image_labels(self, prepared: DataConfig, tmp_path: Path) -> None:
        (tmp_path / "tags.csv").write_text("p3,cat\np4,dog\np5\n")
        weakly = dataclasses.replace(prepared, image_labels=str(tmp_path / "tags.csv"))
        sources = open_sources(weakly, "weakly")
        assert sources.unlabeled is not None
        np.testing.assert_array_equal(sources.unlabeled.read(1).image_labels, [0, 1])
        assert sources.unlabeled.read(3).image_labels is None
        assert sources.notes[1:] == ("image-level labels of 1 of 4 unlabeled images come from their masks",)

    def test_image_labels_of_coco(self, prepared: DataConfig, tmp_path: Path) -> None:
        content = {
            "images": [{"id": number, "file_name": f"p{number}.jpg"} for number in range(9)],
            "categories": [{"id": 5, "name": "dog"}],
            "annotations": [{"image_id": 4, "category_id": 5, "iscrowd": 0}],
        }
        (tmp_path / "instances.json").write_text(json.dumps(content))
        weakly = dataclasses.replace(prepared, image_labels=str(tmp_path / "instances.json"))
        sources = open_sources(weakly, "weakly")
        assert sources.unlabeled is not None
        np.testing.assert_array_equal(
            [sources.unlabeled.read(index).image_labels for index in range(4)],
            [[0, 0], [0, 1], [0, 0], [0, 0]],
        )
        assert sources.notes == ("unlabeled pool: 4 images, none of them labeled",)

    def test_background_is_as_described_unless_the_configuration_says(self, prepared: DataConfig) -> None:
        for key, expected in {"auto": True, "0": True, "none": False}.items():
            info = open_sources(dataclasses.replace(prepared, background=key), "supervised").info
            assert info.has_background == expected
        streets = dataclasses.replace(prepared, name="streets")
        for key, expected in {"auto": False, "0": True, "none": False}.items():
            info = open_sources(dataclasses.replace(streets, background=key), "supervised").info
            assert info.has_background == expected

    def test_bytes_come_out_encoded(self, prepared: DataConfig) -> None:
        assert open_sources(prepared, "supervised").labeled.read(0).image.startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"name": "no_such_scenes"},
                r"^data.name=no_such_scenes: Dataset no_such_scenes not found\.; give",
            ),
            ({"name": ""}, r"^data.name=: "),
            ({"name": "photos"}, r"^data.name=photos lacks the features image, label; give a segmentation"),
            ({"unlabeled_name": "photos"}, r"^data.unlabeled_name=photos lacks the features image, label; g"),
            ({"name": "nameless_scenes"}, r"^data.name=nameless_scenes lacks class_names in its metadata"),
            ({"labeled": "test"}, r"^data.labeled=test: Unknown split 'test'"),
            ({"labeled": "train[:x]"}, r"^data.labeled=train\[:x\]: Error parsing split"),
            ({"labeled": "train[:0]"}, r"^data.labeled=train\[:0\] holds no records"),
            ({"labeled": "train+train"}, r"^data.labeled=train\+train repeats 7 ids"),
            (
                {"labeled": "odd"},
                r"^data.labeled=odd image p0 is 9x6 pixels .*data.labeled=odd mask p0 is 8x6",
            ),
            (
                {"labeled": "some/2"},
                r"^data.labeled=some/2: .*; published label splits of tiny_scenes: some/1, all$",
            ),
            (
                {"labeled": "all/1"},
                r"^data.labeled=all/1: .*published label splits of tiny_scenes: some/1, all$",
            ),
            (
                {"labeled": "val:some/1"},
                r"^data.labeled=val:some/1: 3 of 3 ids are not among the 2 records of tiny_scenes val, first 'p5'",
            ),
            ({"labeled": "train:/nowhere/x"}, r"^data.labeled: /nowhere/x: cannot be read \(No such file"),
            ({"labeled": __file__}, r"^data.labeled=.*: a list file; name the split .*, too: train:"),
            (
                {"name": "tiny_scenes/big"},
                r"^data.name=tiny_scenes/big: no configuration 'big' of tiny_scenes; there are:",
            ),
            ({"labeled": "test:some/1"}, r"^data.labeled=test:some/1: Unknown split 'test'"),
            ({"labeled": "all"}, r"^data.splits_dir: .* holds neither tiny/all.txt nor all.txt"),
            ({"labeled": "all", "splits_dir": "/nowhere/x"}, r"^data.splits_dir: /nowhere/x is not a folder"),
            ({"val": "train[2:]"}, r"^data.labeled and data.val share 1 id \('p2'\)"),
        ],
    )
    def test_mistakes(
        self, prepared: DataConfig, published: Path, changes: dict[str, str], message: str
    ) -> None:
        data = dataclasses.replace(prepared, splits_dir=str(published))
        with pytest.raises(UserError, match=message) as error:
            open_sources(dataclasses.replace(data, **changes), "supervised")  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    def test_files_without_random_access(self, prepared: DataConfig, tmp_path: Path) -> None:
        import tensorflow_datasets as tfds

        tfds.builder(prepared.name, data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
        with pytest.raises(
            UserError, match=r"TFRECORD.*; give the name of a builder whose files in data.data_dir"
        ):
            open_sources(dataclasses.replace(prepared, data_dir=str(tmp_path)), "supervised")

    def test_builders_of_this_package_need_no_import(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "late_scenes.py").write_text(LATE_SCENES)
        package = importlib.import_module("pseudoseg_tf.datasets")
        monkeypatch.setattr(package, "__path__", [str(tmp_path)])
        with pytest.raises(UserError, match=r"^data.name=late_scenes:1.0.0 lacks the features image, label;"):
            open_sources(
                DataConfig(source="tfds", name="late_scenes:1.0.0", data_dir=str(tmp_path)), "supervised"
            )


class TestFileOfIds:
    """The ids of a prepared split, kept beside its files."""

    @pytest.fixture
    def copied(self, prepared: DataConfig, tmp_path: Path) -> DataConfig:
        """A copy of tiny_scenes without files of ids."""
        open_sources(prepared, "supervised")
        shutil.copytree(
            prepared.data_dir, tmp_path / "tfds", ignore=shutil.ignore_patterns(f"*{tfds_index.IDS_SUFFIX}")
        )
        return dataclasses.replace(prepared, data_dir=str(tmp_path / "tfds"))

    @staticmethod
    def folder(data: DataConfig) -> Path:
        return Path(data.data_dir) / "tiny_scenes/1.0.0"

    def test_each_split_is_read_once(self, copied: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = []
        read = tfds_index._read

        def recorded(builder: Any, split: str, where: str, check: bool) -> Any:
            splits.append(split)
            return read(builder, split, where, check)

        monkeypatch.setattr(tfds_index, "_read", recorded)
        for _ in range(2):
            sources = open_sources(copied, "unlabeled")
            check(sources.labeled, [0, 1, 2])
            assert splits == ["train", "val"]
        written = {path.name: path.read_text() for path in self.folder(copied).glob("*.ids.txt")}
        assert written == {
            "train.ids.txt": "".join(f"mask p{number}\n" for number in range(7)),
            "val.ids.txt": "mask p7\nmask p8\n",
        }
        assert not list(self.folder(copied).glob("*.tmp"))

    @pytest.mark.parametrize("content", [b"", b"mask p7\n", b"mask p7\np8\n", b"mask p7\nmask \xff\n"])
    def test_damaged_file_is_made_anew(self, copied: DataConfig, content: bytes) -> None:
        path = self.folder(copied) / "val.ids.txt"
        path.write_bytes(content)
        check(open_sources(copied, "supervised").val, [7, 8])
        assert path.read_text() == "mask p7\nmask p8\n"

    def test_folder_that_cannot_be_written(self, copied: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "replace", refuse)
        check(open_sources(copied, "unlabeled").val, [7, 8])
        assert not list(self.folder(copied).glob("*.ids.txt"))

    def test_file_of_another_data_set(self, copied: DataConfig) -> None:
        (self.folder(copied) / "val.ids.txt").write_text("mask p8\nmask p7\n")
        message = (
            rf"^data.val=val: {self.folder(copied)} holds 'p7' where its files \*.ids.txt name 'p8'; delete"
        )
        with pytest.raises(UserError, match=message):
            open_sources(copied, "supervised")

    @pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
    def test_damaged_files(self, copied: DataConfig, damage: str) -> None:
        (path,) = self.folder(copied).glob("*train.array_record*")
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(
            {
                "cut": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
                "text": b"no records",
            }[damage]
        )
        message = (
            rf"^data.labeled=train\[:3\]: .*{self.folder(copied)} are damaged \(.*\); delete that folder, it will "
            "be prepared again$"
        )
        with pytest.raises(UserError, match=message):
            sources = open_sources(copied, "supervised")
            for index in range(len(sources.labeled)):
                sources.labeled.read(index)

    def test_records_without_masks(self, copied: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        class WithoutMasks(tfds_index.EncodedRecords):
            """The records of a split; those of the odd pictures have no mask."""

            def __getitem__(self, index: int) -> Any:
                features = super().__getitem__(index)
                return features if int(features["id"][1:]) % 2 == 0 else features | {"label": b""}

        monkeypatch.setattr(tfds_index, "EncodedRecords", WithoutMasks)
        monkeypatch.setattr("pseudoseg_tf.data.tfds_source.EncodedRecords", WithoutMasks)
        with pytest.raises(
            UserError, match=r"^data.labeled=train\[:3\]: 1 of 3 records have no mask, first 'p1'"
        ):
            open_sources(copied, "supervised")
        even = dataclasses.replace(copied, labeled="train[:1]+train[2:3]", val="val[1:]")
        unlabeled = open_sources(even, "unlabeled").unlabeled
        assert unlabeled is not None and not unlabeled.has_masks
        assert [unlabeled.has_mask(index) for index in range(4)] == [False, True, False, True]
        assert [unlabeled.read(index).mask is None for index in range(4)] == [True, False, True, False]
        assert "none p5\nmask p6\n" in (self.folder(copied) / "train.ids.txt").read_text()


LATE_SCENES = """
import tensorflow_datasets as tfds

class LateScenes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"id": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {}

    def _generate_examples(self):
        return iter(())
"""


# Real images


@pytest.fixture(scope="module")
def voc(shared_dir: Path) -> DataConfig:
    root = shared_dir / "data" / "voc12_subset"
    return DataConfig(
        images=str(root / "images"),
        masks=str(root / "masks"),
        classes=str(root / "classes.txt"),
        labeled=str(root / "train.txt"),
        unlabeled=str(root / "aug_extra.txt"),
        val=str(root / "val.txt"),
    )


@pytest.mark.needs_shared
class TestRealImages:
    def test_voc_subset(self, voc: DataConfig) -> None:
        sources = open_sources(voc, "weakly")
        assert sources.unlabeled is not None
        assert [len(s) for s in (sources.labeled, sources.unlabeled, sources.val)] == [437, 1500, 445]
        assert sources.info.class_names[15] == "person" and sources.info.name == "voc12_subset"
        for source in (sources.labeled, sources.unlabeled, sources.val):
            for index in range(0, len(source), 50):
                image, labels = decode_record(source.read(index), 21)
                assert image.shape == (*labels.shape, 3) and min(labels.shape) <= 256

    def test_an_eighth_of_train_that_misses_no_common_class(self, voc: DataConfig) -> None:
        common = {8, 10, 12, 13, 15, 17}  # cat, cow, dog, horse, person, sheep
        labeled = open_sources(voc, "supervised").labeled
        classes = {}
        for index, record_id in enumerate(labeled.ids):
            classes[record_id] = common & set(np.unique(decode_record(labeled.read(index), 21)[1]).tolist())
        drawn = class_balanced_draw(labeled.ids, classes, len(labeled) // 8, 0, 5)
        assert len(drawn) == 54 and set(drawn) <= set(labeled.ids)
        assert all(sum(class_id in classes[record_id] for record_id in drawn) >= 5 for class_id in common)

    def test_voc_devkit_with_palette_masks(self, shared_dir: Path, voc: DataConfig) -> None:
        root = shared_dir / "data/voc12_devkit_sample/VOCdevkit/VOC2012"
        devkit = dataclasses.replace(
            voc,
            images=str(root / "JPEGImages"),
            masks=str(root / "SegmentationClass"),
            labeled=str(root / "ImageSets/Segmentation/train.txt"),
            unlabeled=str(root / "ImageSets/Segmentation/train_aug.txt"),
            val=str(root / "ImageSets/Segmentation/val.txt"),
        )
        sources = open_sources(devkit, "unlabeled")
        # Both folders hold the same ids for the official lists.
        again = open_sources(
            dataclasses.replace(devkit, masks=str(root / "SegmentationClassAug")), "unlabeled"
        )
        assert sources.unlabeled is not None and again.unlabeled is not None
        assert not sources.unlabeled.has_masks and again.unlabeled.has_masks
        for index in range(len(sources.val)):
            np.testing.assert_array_equal(
                decode_record(sources.val.read(index), 21)[1], decode_record(again.val.read(index), 21)[1]
            )

    def test_published_lists(self, shared_dir: Path) -> None:
        sizes = {
            "2_clean": 732,
            "4_clean": 366,
            "8_clean": 183,
            "16_clean_3": 92,
            "official_train_aug": 10582,
        }
        for name, count in sizes.items():
            assert len(read_ids(shared_dir / f"splits/voc/{name}.txt", "data.labeled")) == count
