"""What all builders share: order and memory of large data sets, where the archives are, what is left of a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from pseudoseg_tf import config_io
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.tfds_source import open_builder
from pseudoseg_tf.datasets import shapes_seg
from pseudoseg_tf.datasets.published import read_bytes
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.presets import preset
from tests.published import check_refused, draw_cityscapes


def test_more_records_than_memory_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    read_values = shuffle._Bucket.read_values

    def spy(bucket: Any) -> Iterator[Any]:
        parts.append(len(values := list(read_values(bucket))))
        return iter(values)

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
    monkeypatch.setattr(shuffle._Bucket, "read_values", spy)
    config = shapes_seg.ShapesSegConfig(name="many", size=48, train=30, val=3)
    builder = tfds.builder("shapes_seg", data_dir=tmp_path, config=config)
    builder.download_and_prepare()
    assert [record["id"].decode() for record in builder.as_data_source("train")] == [
        f"train_{index:05d}" for index in range(30)
    ]
    # Never more than one of them in memory.
    assert sum(parts) == 33 and max(parts) == 1


def test_default_folder_of_archives(tmp_path: Path) -> None:
    message = (
        rf"^cityscapes_seg: {tmp_path}/out/downloads/manual does not exist or is empty; unpack leftImg8bit.* there, .*"
        r"\. Unpacked elsewhere: set data.manual_dir to that folder$"
    )
    with pytest.raises(Exception, match=message):
        open_builder("cityscapes_seg", str(tmp_path / "out"))
    draw_cityscapes(tmp_path / "out/downloads/manual")
    builder, info = open_builder("cityscapes_seg/subset", str(tmp_path / "out"))
    assert builder.info.splits["train"].num_examples == 2 and info.num_classes == 19


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"/none does not exist or is empty; unpack"),
        ("empty", r"/empty does not exist or is empty; unpack"),
        ("file", r"/file is not a folder; unpack"),
    ],
)
def test_no_archives_in_the_folder_named(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    check_refused("coco_seg", tmp_path / name, tmp_path / "out", message)


def test_the_configuration_names_the_folder(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path)
    overrides = [
        "data.name=cityscapes_seg/subset",
        "data.labeled=train",
        f"data.data_dir={tmp_path / 'out'}",
        f"data.manual_dir={tmp_path}",
    ]
    config = config_io.apply_overrides(preset("cityscapes"), overrides)
    sources = open_sources(config.data, "unlabeled")
    assert sources.unlabeled is not None
    assert [len(source) for source in (sources.labeled, sources.unlabeled, sources.val)] == [2, 2, 1]
    assert sources.info.name == "cityscapes_seg" and sources.info.class_names[13] == "car"
    assert not sources.info.has_background


def test_a_file_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.touch()
    os.truncate(path, (1 << 30) + 1)
    with pytest.raises(
        UserError, match=rf"^{path}: more than 1 GiB; unpack the archive that holds it again$"
    ):
        read_bytes(path)
