"""From the data section of a configuration to checked sources of records."""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import split_catalog
from pseudoseg_tf.data.coco_labels import read_coco_image_labels
from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.folder import Folder, FolderSource
from pseudoseg_tf.data.pseudo_labeled import join_pseudo_labeled
from pseudoseg_tf.data.selection import (
    ImageLabeled,
    OfAnotherDataSet,
    check_masks_are_there,
    select,
    without,
)
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, MaskEncoding, Source, voc_palette
from pseudoseg_tf.data.splits import check_disjoint, check_unique, common_ids, read_ids, split_list
from pseudoseg_tf.data.text import (
    IMAGE_SUFFIXES,
    read_category_classes,
    read_class_names,
    read_image_labels,
    read_palette,
)
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

    def streams(self) -> dict[str, Source]:
        """What training learns from: "labeled" and, except in supervised mode, "unlabeled"."""
        both = {"labeled": self.labeled, "unlabeled": self.unlabeled}
        return {name: source for name, source in both.items() if source is not None}


def open_sources(data: DataConfig, mode: str) -> Sources:
    """Opens and checks everything a run reads.

    Looks at every id, the header size of every mask that is needed, and the values of some masks of both
    lists, so that mistakes show before training and not in the midst of it. With `data.on_bad_example=skip`, what is
    wrong with one of the images and masks to learn from is left to training; that masks are missing is not.

    Args:
      data: which files.
      mode: "supervised", "unlabeled" or "weakly"; says whether there are additional images, and whether they
        need image-level labels.

    Raises:
      UserError: the files do not fit together; the message names the first at fault.
    """
    info, open_one = opener(data)
    strict = data.on_bad_example == "fail"
    labeled = open_one(data.labeled, "data.labeled", need_masks=True, check=strict)
    check_masks_are_there(labeled, f"data.labeled={data.labeled}")
    val = open_one(data.val, "data.val", need_masks=True)
    check_disjoint(labeled.ids, "data.labeled", val.ids, "data.val")
    never_labeled = _missing_classes(info, _check_masks(labeled, "data.labeled", strict), len(labeled))
    _check_masks(val, "data.val", True)
    if mode == "supervised" and data.pseudo_labels:
        pool = open_one(data.unlabeled, "data.unlabeled", need_masks=False, check=strict)
        joined = join_pseudo_labeled(labeled, pool, val, data.pseudo_labels, data.repeat_labeled)
        note = (
            f"learns from {len(labeled)} labeled images, each {data.repeat_labeled} times an epoch, and "
            f"{len(joined) - data.repeat_labeled * len(labeled)} with the pseudo labels of {data.pseudo_labels}"
        )
        return Sources(info, joined, None, val, (note, *never_labeled))
    if mode == "supervised":
        return Sources(info, labeled, None, val, tuple(never_labeled))
    unlabeled = open_one(data.unlabeled, "data.unlabeled", need_masks=False, check=strict)
    check_disjoint(unlabeled.ids, "data.unlabeled", val.ids, "data.val")
    notes = [pool_note(unlabeled.ids, labeled.ids, data.exclude_labeled)]
    if data.image_labels and mode != "weakly":
        notes.append(f"data.image_labels is not read in {mode} mode (train.mode=weakly reads it)")
    if data.exclude_labeled:
        unlabeled = without(unlabeled, labeled.ids)
    if mode == "weakly":
        image_labels = image_labels_by_id(info, unlabeled.ids, data.image_labels, data.category_classes)
        lacking = [record_id for k, record_id in enumerate(unlabeled.ids) if not unlabeled.has_mask(k)]
        notes += check_image_labels(unlabeled.ids, lacking, image_labels, data.image_labels)
        unlabeled = ImageLabeled(unlabeled, image_labels)
    return Sources(info, labeled, unlabeled, val, (*notes, *never_labeled))


def open_labeled(data: DataConfig) -> Source:
    """Opens what `data.labeled` names and nothing else, as `open_sources` does.

    Raises:
      UserError: the files do not fit together; the message names the first at fault.
    """
    _, open_one = opener(data)
    return open_one(data.labeled, "data.labeled", need_masks=True)


def pool_note(unlabeled: Sequence[str], labeled: Sequence[str], exclude_labeled: bool) -> str:
    """A line that says which images are the unlabeled ones, given the ids of both lists.

    Raises:
      UserError: without the labeled ones none is left.
    """
    count, shared = len(unlabeled), len(common_ids(unlabeled, labeled))
    if not shared:
        return f"unlabeled pool: {count} images, none of them labeled"
    if not exclude_labeled:
        return (
            f"unlabeled pool: {count} images, {shared} labeled ones among them (data.exclude_labeled=true would "
            "leave those out)"
        )
    if shared == count:
        raise UserError(
            f"data.exclude_labeled: found 'true', but all {count} images of data.unlabeled are in data.labeled; "
            "name more images or set it to false"
        )
    return (
        f"unlabeled pool: {count - shared} images, the {count} of data.unlabeled without {shared} labeled ones "
        "(data.exclude_labeled=true)"
    )


class Opener(Protocol):
    """Opens what one key names: a list file, shards, a split, or a list of ids in one of these.

    With `check` false, records are not looked at: a mistake in one shows when it is read.
    """

    def __call__(self, value: str, key: str, /, *, need_masks: bool, check: bool = True) -> Source: ...


def opener(data: DataConfig) -> tuple[DatasetInfo, Opener]:
    """Returns the classes, and how to open a list, for the kind of source configured."""
    if data.source == "tfds":
        return _tfds_opener(data)
    info, encoding = _read_classes(data)
    info = _with_background(info, data)
    if data.source == "tfrecord":
        return info, functools.partial(_open_shards, info, encoding)
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
        least = "no class but the background" if background and seen[0] else "no class"
        white = (
            "; where it is the object, set data.binary_masks=true" if seen[0] and seen[IGNORE_LABEL] else ""
        )
        raise UserError(
            f"{key}: the {count} masks looked at hold the values {values} alone, which is {least}; save class ids "
            f"as pixel values ({IGNORE_LABEL} means ignored{white})"
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
            f"data.image_labels: {len(lacking)} of {len(ids)} images of data.unlabeled have neither an entry in "
            f"{path or 'a CSV file (the key is empty)'} nor a mask, first {lacking[0]!r}; train.mode=weakly needs "
            "one of them for each"
        )
    by_masks = [record_id for record_id in ids if record_id not in image_labels]
    if not by_masks:
        return []
    return [f"image-level labels of {len(by_masks)} of {len(ids)} unlabeled images come from their masks"]


def _open_shards(
    info: DatasetInfo,
    encoding: MaskEncoding,
    value: str,
    key: str,
    /,
    *,
    need_masks: bool,
    check: bool = True,
) -> Source:
    """Opens all records of shards, or those of "PATTERNS:FILE", a list of ids."""
    # Importing TensorFlow takes seconds; only those who use it should wait.
    from pseudoseg_tf.data.tfrecord import TFRecordSource

    patterns, listed = split_list(value)
    if not listed:
        return TFRecordSource(info, patterns, key, need_masks=need_masks, check=check, encoding=encoding)
    ids = read_ids(listed, key)
    shards = TFRecordSource(info, patterns, key, need_masks=False, check=check, encoding=encoding)
    source = select(shards, ids, f"{key}={value}", patterns)
    if need_masks:
        check_masks_are_there(source, f"{key}={value}")
    return source


def _tfds_opener(data: DataConfig) -> tuple[DatasetInfo, Opener]:
    """Opens splits of `data.name`, those of `data.unlabeled` in the data set that is named for them, if one is."""
    info, open_one = _builder_opener(data, data.name, "data.name")
    if not data.unlabeled_name:
        return info, open_one
    _, open_other = _builder_opener(data, data.unlabeled_name, "data.unlabeled_name")

    def open_either(value: str, key: str, /, *, need_masks: bool, check: bool = True) -> Source:
        if key != "data.unlabeled":
            return open_one(value, key, need_masks=need_masks, check=check)
        return OfAnotherDataSet(open_other(value, key, need_masks=need_masks, check=check), info)

    return info, open_either


def _builder_opener(data: DataConfig, name: str, name_key: str) -> tuple[DatasetInfo, Opener]:
    """Opens a split, a published one by its name ("1_16/1"), or a list of ids: "SPLIT:FILE", "SPLIT:NAME"."""
    # Importing TFDS takes seconds; only those who use it should wait.
    from pseudoseg_tf.data.tfds_index import SplitIndexes
    from pseudoseg_tf.data.tfds_source import TFDSSource, open_builder

    builder, info = open_builder(name, data.data_dir, data.manual_dir, name_key)
    info = _with_background(info, data)
    indexes = SplitIndexes(builder)
    names = split_catalog.split_names(info.name)
    hint = f"; published label splits of {info.name}: {', '.join(names)}" if names else ""

    def open_one(value: str, key: str, /, *, need_masks: bool, check: bool = True) -> Source:
        where = f"{key}={value}"
        if os.path.isfile(value):
            raise UserError(f"{where}: a list file; name the split that holds its images, too: train:{value}")
        if value in names:
            split, listed = split_catalog.base_split(info.name), value
        else:
            split, listed = split_list(value)
        source: Source = TFDSSource(info, builder, indexes, split, where, hint, check=check)
        if listed in names:
            ids = split_catalog.named_ids(info.name, listed, data.splits_dir, lambda: source.ids, where)
            source = select(source, ids, where, f"{info.name} {split}")
        elif listed:
            source = select(source, read_ids(listed, key), where, f"{info.name} {split}")
        if need_masks:
            check_masks_are_there(source, where)
        return source

    return info, open_one


def _check_masks(source: Source, key: str, strict: bool) -> np.ndarray:
    """Decodes evenly spread masks; refuses bad values, if strict, and a list that shows nothing but background.

    Returns:
      bool [256], the values that occur.
    """
    count = min(len(source), _MASKS_CHECKED)
    seen = np.zeros(256, bool)
    usable = 0
    for position in range(count):
        try:
            record = source.read(position * len(source) // count)
            assert record.mask is not None  # The source was asked for masks.
            seen[decode_mask(record.mask, record.id, source.info.num_classes, record.encoding)] = True
            usable += 1
        except UserError:
            if strict:
                raise
    if strict or usable:
        check_objects(seen, usable, key, source.info.has_background)
    return seen


def _missing_classes(info: DatasetInfo, seen: np.ndarray, masks: int) -> list[str]:
    """A note of the classes that no labeled image shows, where all were looked at."""
    missing = [name for class_id, name in enumerate(info.class_names) if not seen[class_id]]
    if not missing or masks > _MASKS_CHECKED:
        return []
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
    return [
        f"no mask of data.labeled shows {shown}, which the network will miss: label an image of each that you want "
        "(pseudoseg-check-data counts classes)"
    ]


def image_labels_by_id(
    info: DatasetInfo, ids: Sequence[str], path: str, category_classes: str
) -> dict[str, np.ndarray]:
    """What a CSV file or COCO's annotations say about images: multi-hot labels by id; {} without a file.

    Args:
      info: the classes.
      ids: of the images; annotations go by file name.
      path: the file, .json for annotations; "" for none.
      category_classes: the file that says which class a category of annotations is; "": the one of its name.

    Raises:
      UserError: the file cannot be used, or two ids have the same file name.
    """
    if not path:
        return {}
    if not path.endswith(".json"):
        return read_image_labels(path, info.image_classes)
    classes = read_category_classes(category_classes, info.image_classes) if category_classes else None
    labels = read_coco_image_labels(path, info.image_classes, classes)
    file_names = [posixpath.basename(record_id) for record_id in ids]
    check_unique(file_names, "data.image_labels: annotations go by file name, of which data.unlabeled")
    by_id = zip(ids, file_names, strict=True)
    return {record_id: labels[name] for record_id, name in by_id if name in labels}
