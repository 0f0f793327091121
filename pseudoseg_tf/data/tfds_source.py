"""Records from a TensorFlow Datasets builder, as encoded bytes."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds

from pseudoseg_tf.data.decode import check_sizes
from pseudoseg_tf.data.specs import DatasetInfo, Record, voc_palette
from pseudoseg_tf.data.splits import check_unique
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.progress import Progress

_T = TypeVar("_T")


def open_builder(name: str, data_dir: str) -> tuple[tfds.core.DatasetBuilder, DatasetInfo]:
    """Finds a builder and prepares its files, as ArrayRecord, if they are not there.

    The builder needs the features "image" (Image), "id" (Text) and, for pixel labels, "label" (Image of one
    uint8 channel, 255 ignored); its metadata needs "class_names" and may hold "palette".

    Args:
      name: TFDS name, such as "shapes_seg" or "shapes_seg/96px"; builders of this package need no import.
      data_dir: where its files are; "" is the TFDS default.

    Raises:
      UserError: an unknown name, files in a format without random access, or features or metadata missing.
    """
    where = f"data.name={name}"
    own = f"pseudoseg_tf.datasets.{re.split(r'[/:]', name)[0]}"
    if own.isascii() and all(part.isidentifier() for part in own.split(".")) and _exists(own):
        importlib.import_module(own)
    options = {"data_dir": data_dir or None, "file_format": "array_record"}
    builder = _ask(functools.partial(tfds.builder, name, **options), where)
    _ask(builder.download_and_prepare, where)
    missing = {"image", "id"} - set(builder.info.features or ())
    class_names = (builder.info.metadata or {}).get("class_names")
    if missing or not class_names:
        lacks = ", ".join(sorted(missing)) or "class_names in its metadata"
        raise UserError(f"{where} lacks {lacks}; give a builder for segmentation made for this program")
    palette = builder.info.metadata.get("palette") or voc_palette(len(class_names))
    info = DatasetInfo.from_json({"name": builder.name, "class_names": class_names, "palette": palette})
    return builder, info


class TFDSSource:
    """The records of a split or part of one, in the order of the builder's files.

    Attributes:
      info: the classes.
      ids: the "id" feature of each record.
      has_masks: whether every record carries a mask.
    """

    def __init__(
        self,
        info: DatasetInfo,
        builder: tfds.core.DatasetBuilder,
        split: str,
        key: str,
        *,
        need_masks: bool,
        image_labels: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Opens the split and reads it once, for the ids and the sizes.

        Args:
          info: the classes.
          builder: prepared builder.
          split: TFDS split, such as "train", "train[:20]" or "train[20:]".
          key: the configuration key that names it, for error messages.
          need_masks: whether a builder without pixel labels is an error.
          image_labels: multi-hot image-level labels by id; ids without an entry have none.

        Raises:
          UserError: no such split or an empty one; no pixel labels although needed; ids repeat; or image and
            mask differ in size.
        """
        where = f"{key}={split}"
        self.info = info
        self.has_masks = "label" in builder.info.features
        self._image_labels = image_labels or {}
        if need_masks and not self.has_masks:
            raise UserError(f"{where}: {builder.name} has no feature 'label'; it needs pixel labels")
        skip = {
            name: tfds.decode.SkipDecoding() for name in ("image", "label") if name in builder.info.features
        }
        self._records = _ask(functools.partial(builder.as_data_source, split, decoders=skip), where)
        if not len(self._records):
            raise UserError(f"{where} holds no records; give a split or part of one with at least one")
        ids = []
        with Progress(len(self), f"{key}: reading ids") as progress:
            for index in range(len(self)):
                record = self.read(index)
                if record.mask is not None:
                    image_name, mask_name = f"{where} image {record.id}", f"{where} mask {record.id}"
                    check_sizes(io.BytesIO(record.image), image_name, io.BytesIO(record.mask), mask_name)
                ids.append(record.id)
                progress.update()
        check_unique(ids, where)
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        features = self._records[index]
        record_id = features["id"].decode("utf-8", "replace")
        return Record(
            id=record_id,
            image=features["image"],
            mask=features["label"] if self.has_masks else None,
            image_labels=self._image_labels.get(record_id),
        )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package of data sets is not installed.
        return False


def _ask(call: Callable[[], _T], where: str) -> _T:
    """Calls TFDS, whose complaints about names, splits and formats are all ValueErrors of many lines."""
    try:
        return call()
    except (ValueError, NotImplementedError, OSError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{where}: {reason}") from error
