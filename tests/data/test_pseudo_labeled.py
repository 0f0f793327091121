"""Labeled images joined by pseudo-labeled ones: which records, how often, and what is refused."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.pseudo_labeled import (
    JoinedSource,
    PseudoLabeledSource,
    join_pseudo_labeled,
    mask_path,
    not_labeled,
)
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import DatasetInfo, Record, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.visualize import save_palette_png
from tests.folder import draw_folder, small_config

INFO = DatasetInfo(("background", "cat"), voc_palette(2), "pets")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass
class Listed:
    """Pictures of one color, the number of the id, with masks of one class or none."""

    ids: Sequence[str]
    label: int | None = None
    info = INFO

    @property
    def has_masks(self) -> bool:
        return self.label is not None

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        return self.has_masks

    def read(self, index: int) -> Record:
        mask = None if self.label is None else png(np.full([4, 4], self.label, np.uint8))
        return Record(
            self.ids[index], png(np.full([4, 4, 3], int(self.ids[index][-1]), np.uint8)), mask, None
        )


def write_masks(root: Path, values: dict[str, Sequence[int]]) -> None:
    """Masks of two rows of one value each."""
    for record_id, (above, below) in values.items():
        path = Path(mask_path(root, record_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = np.repeat(np.array([above, below], np.uint8), 8).reshape(4, 4)
        save_palette_png(path, labels, INFO.palette)


def test_labeled_images_repeat_and_pseudo_labels_take_the_place_of_masks(tmp_path: Path) -> None:
    write_masks(tmp_path, {"c2": (0, 255), "sub/c3": (1, 0)})
    labeled, val = Listed(["a0", "b1"], label=1), Listed(["v9"], label=0)
    # The masks of unlabeled images, if there are any, are not looked at; a labeled image among them keeps its own.
    unlabeled = Listed(["c2", "a0", "sub/c3"], label=1)
    joined = join_pseudo_labeled(labeled, unlabeled, val, str(tmp_path), 3)
    assert joined.ids == ("a0", "b1") * 3 + ("c2", "sub/c3")
    assert len(joined) == 8 and joined.has_masks and joined.info is INFO
    for index, record_id in enumerate(joined.ids):
        record = joined.read(index)
        # With two classes, 0 and 255 alone are a mask too: the teacher saw background and was not sure of the rest.
        image, labels = decode_record(record, 2)
        assert record.id == record_id and (image == int(record_id[-1])).all()
        expected = {"c2": [0, 255], "sub/c3": [1, 0]}.get(record_id, [1, 1])
        np.testing.assert_array_equal(labels[[0, 2]], np.repeat([expected], 4).reshape(2, 4))


def test_not_labeled_keeps_the_order() -> None:
    assert not_labeled(Listed(["c2", "a0", "b1"]), Listed(["a0"])).ids == ("c2", "b1")
    with pytest.raises(UserError, match=r"^data\.unlabeled: all 2 images are in data\.labeled too"):
        not_labeled(Listed(["b1", "a0"]), Listed(["a0", "b1"]))


def test_missing_masks_are_named(tmp_path: Path) -> None:
    write_masks(tmp_path, {"a0": (0, 1)})
    with pytest.raises(
        UserError, match=r"^data\.pseudo_labels: 2 of 3 images have no mask in .*b1\.png; pseudoseg-self"
    ):
        PseudoLabeledSource(Listed(["a0", "b1", "c2"]), str(tmp_path))
    source = PseudoLabeledSource(Listed(["a0"]), str(tmp_path))
    (tmp_path / "a0.png").unlink()
    with pytest.raises(UserError, match=r"a0\.png: cannot be read \(No such file"):
        source.read(0)


def test_validation_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.unlabeled and data\.val share 1 id \('v9'\)"):
        join_pseudo_labeled(Listed(["a0"]), Listed(["b1", "v9"]), Listed(["v9"]), str(tmp_path), 1)


@pytest.mark.parametrize("record_id", ["../a", "/a", "a/../../b", "a\0b"])
def test_masks_stay_under_their_folder(record_id: str) -> None:
    with pytest.raises(UserError, match=r"outside of masks; rename it$"):
        mask_path("masks", record_id)


def test_ids_with_dots_and_folders() -> None:
    assert mask_path("masks", "a/b.0") == "masks/a/b.0.png"
    assert mask_path("masks", "a/b.0", "_overlay.jpg") == "masks/a/b.0_overlay.jpg"


def as_shards(data: DataConfig, root: Path) -> DataConfig:
    """The folder data set as TFRecord shards."""
    patterns = {}
    for key in ("labeled", "unlabeled", "val"):
        patterns[key] = str(root / f"{key}.tfrecord")
        with tf.io.TFRecordWriter(patterns[key]) as writer:
            for record_id in Path(getattr(data, key)).read_text().split():
                contents = {
                    "image/filename": record_id.encode(),
                    "image/encoded": Path(data.images, f"{record_id}.png").read_bytes(),
                }
                mask = Path(data.masks, f"{record_id}.png")
                if mask.exists():
                    contents["image/segmentation/class/encoded"] = mask.read_bytes()
                features = {
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
                    for name, content in contents.items()
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
    return dataclasses.replace(data, source="tfrecord", images="", masks="", **patterns)


@pytest.mark.parametrize("kind", ["folder", "tfrecord"])
def test_sources_of_a_student(kind: str, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data")
    data = small_config(tmp_path / "data").data
    if kind == "tfrecord":
        data = as_shards(data, tmp_path)
    for record_id in "345":
        save_palette_png(tmp_path / f"{record_id}.png", np.full([8, 8], 2, np.uint8), voc_palette(3))
    data = dataclasses.replace(data, pseudo_labels=str(tmp_path), repeat_labeled=2)
    sources = open_sources(data, "supervised")
    assert isinstance(sources.labeled, JoinedSource) and sources.unlabeled is None
    assert "".join(sources.labeled.ids) == "012012345"
    assert sources.labeled.read(7).mask == (tmp_path / "4.png").read_bytes()
    assert sources.labeled.read(4).mask == (tmp_path / "data/masks/1.png").read_bytes()
    assert sources.notes == (
        f"learns from 3 labeled images, each 2 times an epoch, and 3 with the pseudo labels of {tmp_path}",
    )
