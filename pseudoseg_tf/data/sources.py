"""From the data section of a configuration to checked sources of records."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.folder import Folder, FolderSource
from pseudoseg_tf.data.pseudo_labeled import join_pseudo_labeled
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Source, voc_palette
from pseudoseg_tf.data.splits import check_disjoint, common_ids
from pseudoseg_tf.data.text import IMAGE_SUFFIXES, read_class_names, read_image_labels
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
    info, open_one = _opener(data)
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
    notes = []
    shared = common_ids(labeled.ids, unlabeled.ids)
    if shared:
        notes.append(f"{len(shared)} of the {len(labeled)} images of data.labeled are in data.unlabeled too")
    if mode == "weakly":
        notes += _check_image_labels(unlabeled, image_labels, data.image_labels)
    return Sources(info, labeled, unlabeled, val, tuple(notes))


class _Opener(Protocol):
    """Opens what one key names: a list file, shard patterns or a split."""

    def __call__(
        self,
        value: str,
        key: str,
        /,
        *,
        need_masks: bool,
        image_labels: Mapping[str, np.ndarray] | None = None,
    ) -> Source: ...


def _opener(data: DataConfig) -> tuple[DatasetInfo, _Opener]:
    """Returns the classes, and how to open a list, for the kind of source configured."""

    def described(info: DatasetInfo) -> DatasetInfo:
        if data.background == "auto":
            return info
        return dataclasses.replace(info, has_background=data.background == "0")

    if data.source == "tfds":
        # Importing TFDS takes seconds; only those who use it should wait.
        from pseudoseg_tf.data.tfds_source import TFDSSource, open_builder

        builder, info = open_builder(data.name, data.data_dir)
        info = described(info)
        return info, functools.partial(TFDSSource, info, builder)
    class_names = read_class_names(data.classes)
    name = os.path.basename(os.path.dirname(os.path.abspath(data.classes)))
    info = described(DatasetInfo(class_names, voc_palette(len(class_names)), name))
    if data.source == "tfrecord":
        from pseudoseg_tf.data.tfrecord import TFRecordSource

        return info, functools.partial(TFRecordSource, info)
    images = Folder(data.images, IMAGE_SUFFIXES, "data.images")
    masks = Folder(data.masks, (".png",), "data.masks")
    return info, functools.partial(FolderSource, info, images, masks)


def _check_masks(source: Source, key: str) -> None:
    """Decodes evenly spread masks; refuses bad values, and a list that shows nothing but background."""
    count = min(len(source), _MASKS_CHECKED)
    seen = np.zeros(256, bool)
    for position in range(count):
        record = source.read(position * len(source) // count)
        if record.mask is not None:  # Never None here: the source was asked for masks.
            seen[decode_mask(record.mask, record.id, source.info.num_classes)] = True
    if not seen[source.info.has_background : IGNORE_LABEL].any():
        values = ", ".join(map(str, np.flatnonzero(seen)))
        least = "no class but the background" if source.info.has_background else "no class"
        raise UserError(
            f"{key}: the {count} masks looked at hold the values {values} alone, which is {least}; save class "
            f"ids as pixel values ({IGNORE_LABEL} means ignored)"
        )


def _check_image_labels(
    unlabeled: Source, image_labels: Mapping[str, np.ndarray], path: str
) -> tuple[str, ...]:
    """Checks that each image has image-level labels, from the CSV file or its mask; returns notes."""
    without = [index for index, record_id in enumerate(unlabeled.ids) if record_id not in image_labels]
    if not unlabeled.has_masks:
        lacking = [index for index in without if unlabeled.read(index).mask is None]
        if lacking:
            raise UserError(
                f"data.image_labels: {len(lacking)} of {len(unlabeled)} images of data.unlabeled have "
                f"neither a row in {path or 'a CSV file (the key is empty)'} nor a mask, first "
                f"{unlabeled.ids[lacking[0]]!r}; train.mode=weakly needs one of them for each"
            )
    if not without:
        return ()
    return (
        f"image-level labels of {len(without)} of {len(unlabeled)} unlabeled images come from their masks",
    )
