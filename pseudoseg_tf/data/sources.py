"""From the data section of a configuration to checked sources of records."""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
from typing import Protocol

import numpy as np

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import split_catalog
from pseudoseg_tf.data.coco_labels import read_coco_image_labels
from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.folder import Folder, FolderSource
from pseudoseg_tf.data.selection import ImageLabeled, check_masks_are_there, select, without
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Source, voc_palette
from pseudoseg_tf.data.splits import check_disjoint, check_unique, common_ids, read_ids, split_list
from pseudoseg_tf.data.text import IMAGE_SUFFIXES, read_class_names, read_image_labels
from pseudoseg_tf.errors import UserError

# Masks of each list whose values are looked at before training; the others are checked as they are read.
_MASKS_CHECKED = 64


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
      info: the classes.
      labeled: images with masks to learn from.
      unlabeled: additional images; they carry masks where there are some. None in supervised mode.
      val: images with masks to evaluate on.
      notes: one line for each thing a user should know about the data but need not mend.
    """

    info: DatasetInfo
    labeled: Source
    unlabeled: Source | None
    val: Source
    notes: tuple[str, ...] = ()


def open_sources(data: DataConfig, mode: str) -> Sources:
    """Opens and checks everything a run reads.

    Looks at every id, the header size of every mask that is needed, and the values of some masks of both
    lists, so that mistakes show before training and not in the midst of it.

    Args:
      data: which files.
      mode: "supervised", "unlabeled" or "weakly"; says whether there are additional images, and whether they
        need image-level labels.

    Raises:
      UserError: the files do not fit together; the message names the first at fault.
    """
    info, open_one = _opener(data)
    labeled = open_one(data.labeled, "data.labeled", need_masks=True)
    val = open_one(data.val, "data.val", need_masks=True)
    check_disjoint(labeled.ids, "data.labeled", val.ids, "data.val")
    for source, key in ((labeled, "data.labeled"), (val, "data.val")):
        _check_masks(source, key)
    if mode == "supervised":
        return Sources(info, labeled, None, val)
    unlabeled = open_one(data.unlabeled, "data.unlabeled", need_masks=False)
    check_disjoint(unlabeled.ids, "data.unlabeled", val.ids, "data.val")
    unlabeled, note = _pool(unlabeled, labeled, data.exclude_labeled)
    notes = [note]
    if mode == "weakly":
        unlabeled = _with_image_labels(unlabeled, data.image_labels)
        notes += _check_image_labels(unlabeled, data.image_labels)
    return Sources(info, labeled, unlabeled, val, tuple(notes))


def open_labeled(data: DataConfig) -> Source:
    """Opens what `data.labeled` names and nothing else, as `open_sources` does.

    Raises:
      UserError: the files do not fit together; the message names the first at fault.
    """
    _, open_one = _opener(data)
    return open_one(data.labeled, "data.labeled", need_masks=True)


def _pool(unlabeled: Source, labeled: Source, exclude_labeled: bool) -> tuple[Source, str]:
    """The additional images, with or without those that are labeled, and a line that says which."""
    count, shared = len(unlabeled), len(common_ids(unlabeled.ids, labeled.ids))
    if not shared:
        return unlabeled, f"unlabeled pool: {count} images, none of them labeled"
    if not exclude_labeled:
        return unlabeled, (
            f"unlabeled pool: {count} images, {shared} labeled ones among them (data.exclude_labeled=true would "
            "leave those out)"
        )
    if shared == count:
        raise UserError(
            f"data.exclude_labeled: found 'true', but all {count} images of data.unlabeled are in data.labeled; "
            "name more images or set it to false"
        )
    return without(unlabeled, labeled.ids), (
        f"unlabeled pool: {count - shared} images, the {count} of data.unlabeled without {shared} labeled ones "
        "(data.exclude_labeled=true)"
    )


class _Opener(Protocol):
    """Opens what one key names: a list file, shards, a split, or a list of ids in one of these."""

    def __call__(self, value: str, key: str, /, *, need_masks: bool) -> Source: ...


def _opener(data: DataConfig) -> tuple[DatasetInfo, _Opener]:
    """Returns the classes, and how to open a list, for the kind of source configured."""
    if data.source == "tfds":
        return _tfds_opener(data)
    class_names = read_class_names(data.classes)
    name = os.path.basename(os.path.dirname(os.path.abspath(data.classes)))
    info = DatasetInfo(class_names, voc_palette(len(class_names)), name)
    if data.source == "tfrecord":
        return info, functools.partial(_open_shards, info)
    images = Folder(data.images, IMAGE_SUFFIXES, "data.images")
    masks = Folder(data.masks, (".png",), "data.masks")
    return info, functools.partial(FolderSource, info, images, masks)


def _open_shards(info: DatasetInfo, value: str, key: str, /, *, need_masks: bool) -> Source:
    """Opens all records of shards, or those of "PATTERNS:FILE", a list of ids."""
    # Importing TensorFlow takes seconds; only those who use it should wait.
    from pseudoseg_tf.data.tfrecord import TFRecordSource

    patterns, listed = split_list(value)
    if not listed:
        return TFRecordSource(info, patterns, key, need_masks=need_masks)
    ids = read_ids(listed, key)
    source = select(TFRecordSource(info, patterns, key, need_masks=False), ids, f"{key}={value}", patterns)
    if need_masks:
        check_masks_are_there(source, f"{key}={value}")
    return source


def _tfds_opener(data: DataConfig) -> tuple[DatasetInfo, _Opener]:
    """Opens a split, a published one by its name ("1_16/1"), or a list of ids: "SPLIT:FILE", "SPLIT:NAME"."""
    # Importing TFDS takes seconds; only those who use it should wait.
    from pseudoseg_tf.data.tfds_index import SplitIndexes
    from pseudoseg_tf.data.tfds_source import TFDSSource, open_builder

    builder, info = open_builder(data.name, data.data_dir)
    indexes = SplitIndexes(builder)
    names = split_catalog.split_names(info.name)
    hint = f"; published label splits of {info.name}: {', '.join(names)}" if names else ""

    def open_one(value: str, key: str, /, *, need_masks: bool) -> Source:
        where = f"{key}={value}"
        if value in names:
            split, listed = split_catalog.base_split(info.name), value
        else:
            split, listed = split_list(value)
        source: Source = TFDSSource(info, builder, indexes, split, key, hint)
        if listed in names:
            ids = split_catalog.named_ids(info.name, listed, data.splits_dir, lambda: source.ids, where)
            source = select(source, ids, where, f"{info.name} {split}")
        elif listed:
            source = select(source, read_ids(listed, key), where, f"{info.name} {split}")
        if need_masks:
            check_masks_are_there(source, where)
        return source

    return info, open_one


def _check_masks(source: Source, key: str) -> None:
    """Decodes evenly spread masks; refuses bad values, and a list that shows nothing but background."""
    count = min(len(source), _MASKS_CHECKED)
    seen = np.zeros(256, bool)
    for position in range(count):
        record = source.read(position * len(source) // count)
        if record.mask is not None:  # Never None here: the source was asked for masks.
            seen[decode_mask(record.mask, record.id, source.info.num_classes)] = True
    if not seen[1:IGNORE_LABEL].any():
        values = ", ".join(map(str, np.flatnonzero(seen)))
        raise UserError(
            f"{key}: the {count} masks looked at hold the values {values} alone, which is no class but the "
            f"background; save class ids as pixel values ({IGNORE_LABEL} means ignored)"
        )


def _with_image_labels(unlabeled: Source, path: str) -> ImageLabeled:
    """The additional images with what a CSV file or COCO's annotations say about them."""
    class_names = unlabeled.info.class_names
    if not path:
        return ImageLabeled(unlabeled, {})
    if not path.endswith(".json"):
        return ImageLabeled(unlabeled, read_image_labels(path, class_names))
    labels = read_coco_image_labels(path, class_names)
    file_names = [posixpath.basename(record_id) for record_id in unlabeled.ids]
    check_unique(file_names, "data.image_labels: annotations go by file name, of which data.unlabeled")
    by_id = zip(unlabeled.ids, file_names, strict=True)
    return ImageLabeled(unlabeled, {record_id: labels[name] for record_id, name in by_id if name in labels})


def _check_image_labels(unlabeled: ImageLabeled, path: str) -> tuple[str, ...]:
    """Checks that each image has image-level labels, from the file or its mask; returns notes."""
    unnamed = [index for index in range(len(unlabeled)) if unlabeled.image_labels(index) is None]
    lacking = [index for index in unnamed if not unlabeled.has_mask(index)]
    if lacking:
        raise UserError(
            f"data.image_labels: {len(lacking)} of {len(unlabeled)} images of data.unlabeled have "
            f"neither an entry in {path or 'a CSV file (the key is empty)'} nor a mask, first "
            f"{unlabeled.ids[lacking[0]]!r}; train.mode=weakly needs one of them for each"
        )
    if not unnamed:
        return ()
    return (
        f"image-level labels of {len(unnamed)} of {len(unlabeled)} unlabeled images come from their masks",
    )
