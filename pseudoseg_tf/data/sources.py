"""From the data section of a configuration to checked sources of records."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.folder import Folder, FolderSource
from pseudoseg_tf.data.pseudo_labeled import join_pseudo_labeled
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, MaskEncoding, Source, voc_palette
from pseudoseg_tf.data.splits import check_disjoint, common_ids
from pseudoseg_tf.data.text import IMAGE_SUFFIXES, read_class_names, read_image_labels, read_palette
from pseudoseg_tf.errors import UserError

# Masks of each list whose values are looked at before training; the others are checked as they are read.
_MASKS_CHECKED = 64


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
      info: the classes.
      labeled: images with masks to learn from, pseudo-labeled ones among them where `data.pseudo_labels` is set.
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
    info, open_one = opener(data)
    labeled = open_one(data.labeled, "data.labeled", need_masks=True)
    val = open_one(data.val, "data.val", need_masks=True)
    check_disjoint(labeled.ids, "data.labeled", val.ids, "data.val")
    for source, key in ((labeled, "data.labeled"), (val, "data.val")):
        _check_masks(source, key)
    if mode == "supervised" and data.pseudo_labels:
        pool = open_one(data.unlabeled, "data.unlabeled", need_masks=False)
        joined = join_pseudo_labeled(labeled, pool, val, data.pseudo_labels, data.repeat_labeled)
        note = (
            f"learns from {len(labeled)} labeled images, each {data.repeat_labeled} times an epoch, and "
            f"{len(joined) - data.repeat_labeled * len(labeled)} with the pseudo labels of {data.pseudo_labels}"
        )
        return Sources(info, joined, None, val, (note,))
    if mode == "supervised":
        return Sources(info, labeled, None, val)
    image_labels = {}
    if mode == "weakly" and data.image_labels:
        image_labels = read_image_labels(data.image_labels, info.image_classes)
    unlabeled = open_one(data.unlabeled, "data.unlabeled", need_masks=False, image_labels=image_labels)
    check_disjoint(unlabeled.ids, "data.unlabeled", val.ids, "data.val")
    notes = overlap_notes(labeled.ids, unlabeled.ids)
    if mode == "weakly":
        without_mask = [
            record_id
            for index, record_id in enumerate(unlabeled.ids)
            if not (record_id in image_labels or unlabeled.has_masks) and unlabeled.read(index).mask is None
        ]
        notes += check_image_labels(unlabeled.ids, without_mask, image_labels, data.image_labels)
    return Sources(info, labeled, unlabeled, val, tuple(notes))


class Opener(Protocol):
    """Opens what one key names: a list file, shard patterns or a split."""

    def __call__(
        self,
        value: str,
        key: str,
        /,
        *,
        need_masks: bool,
        check: bool = True,
        image_labels: Mapping[str, np.ndarray] | None = None,
    ) -> Source: ...


def opener(data: DataConfig) -> tuple[DatasetInfo, Opener]:
    """Returns the classes, and how to open a list, for the kind of source configured."""
    if data.source == "tfds":
        # Importing TFDS takes seconds; only those who use it should wait.
        from pseudoseg_tf.data.tfds_source import TFDSSource, open_builder

        builder, info = open_builder(data.name, data.data_dir)
        info = _with_background(info, data)
        return info, functools.partial(TFDSSource, info, builder)
    info, encoding = _read_classes(data)
    info = _with_background(info, data)
    if data.source == "tfrecord":
        from pseudoseg_tf.data.tfrecord import TFRecordSource

        return info, functools.partial(TFRecordSource, info, encoding=encoding)
    images = Folder(data.images, IMAGE_SUFFIXES, "data.images")
    masks = Folder(data.masks, (".png",), "data.masks")
    return info, functools.partial(FolderSource, info, images, masks, encoding=encoding)


def _with_background(info: DatasetInfo, data: DataConfig) -> DatasetInfo:
    """Whether class 0 is the background, as the configuration says, if it does."""
    if data.background == "auto":
        return info
    return dataclasses.replace(info, has_background=data.background == "0")


def _read_classes(data: DataConfig) -> tuple[DatasetInfo, MaskEncoding]:
    """Names and colors of the classes, and what the pixels of masks mean, from the text files that say so."""
    class_names = read_class_names(data.classes) if data.classes or not data.palette else ()
    name = os.path.basename(os.path.dirname(os.path.abspath(data.classes or data.palette)))
    if data.palette:
        palette = read_palette(data.palette, class_names)
        return DatasetInfo(palette.class_names, palette.colors, name), palette.encoding()
    if data.binary_masks and len(class_names) != 2:
        raise UserError(
            f"data.binary_masks: found 'true' with {len(class_names)} names in data.classes; black and white "
            "are two classes: name two, or set it to false"
        )
    info = DatasetInfo(class_names, voc_palette(len(class_names)), name)
    return info, MaskEncoding(binary=data.binary_masks)


def overlap_notes(labeled: Sequence[str], unlabeled: Sequence[str]) -> list[str]:
    """Says how many labeled ids are among the unlabeled ones, if any; that is no mistake."""
    shared = common_ids(labeled, unlabeled)
    if not shared:
        return []
    return [f"{len(shared)} of the {len(labeled)} images of data.labeled are in data.unlabeled too"]


def check_objects(seen: np.ndarray, count: int, key: str, background: bool) -> None:
    """Raises UserError if masks show no class, or none but the background.

    Args:
      seen: bool [256], the values that occur.
      count: how many masks were looked at.
      key: the configuration key that names the list.
      background: class 0 is the background.
    """
    if not seen[background:IGNORE_LABEL].any():
        values = ", ".join(map(str, np.flatnonzero(seen)))
        least = "no class but the background" if background else "no class"
        raise UserError(
            f"{key}: the {count} masks looked at hold the values {values} alone, which is {least}; save class ids "
            f"as pixel values ({IGNORE_LABEL} means ignored; where it is the object, set data.binary_masks=true)"
        )


def check_image_labels(
    ids: Sequence[str], without_mask: Collection[str], image_labels: Collection[str], path: str
) -> list[str]:
    """Checks that each unlabeled image has image-level labels, from the CSV file or its mask.

    Args:
      ids: of data.unlabeled.
      without_mask: those of them that have no mask; ids with image-level labels may be left out.
      image_labels: the ids with image-level labels.
      path: where those are from.

    Returns:
      A note of how many come from masks, if any.

    Raises:
      UserError: an image has neither.
    """
    lacking = [record_id for record_id in without_mask if record_id not in image_labels]
    if lacking:
        raise UserError(
            f"data.image_labels: {len(lacking)} of {len(ids)} images of data.unlabeled have neither a row in "
            f"{path or 'a CSV file (the key is empty)'} nor a mask, first {lacking[0]!r}; train.mode=weakly needs "
            "one of them for each"
        )
    by_masks = [record_id for record_id in ids if record_id not in image_labels]
    if not by_masks:
        return []
    return [f"image-level labels of {len(by_masks)} of {len(ids)} unlabeled images come from their masks"]


def _check_masks(source: Source, key: str) -> None:
    """Decodes evenly spread masks; refuses bad values, and a list that shows nothing but background."""
    count = min(len(source), _MASKS_CHECKED)
    seen = np.zeros(256, bool)
    for position in range(count):
        record = source.read(position * len(source) // count)
        if record.mask is not None:  # Never None here: the source was asked for masks.
            labels = decode_mask(record.mask, record.id, source.info.num_classes, record.encoding)
            seen[labels] = True
    check_objects(seen, count, key, source.info.has_background)
