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
from pseudoseg_tf.data.text import canonical_id
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.progress import Progress

_T = TypeVar("_T")


def open_builder(name: str, data_dir: str) -> tuple[tfds.core.DatasetBuilder, DatasetInfo]:
    """Finds a builder and prepares its files, as ArrayRecord, if they are not there.

    The builder needs the features "image" (Image), "label" (Image of one uint8 channel, 255 ignored) and "id"
    (Text); its metadata needs "class_names" and may hold "palette" and
    "background" (0: class 0 is the background, as where it does not say; None: no class is).

    Args:
      name: TFDS name, such as "shapes_seg" or "shapes_seg/96px"; builders of this package need no import.
      data_dir: where its files are; "" is the TFDS default.

    Raises:
      UserError: an unknown name, files in a format without random access, or features or metadata missing.
    """
    where = f"data.name={name}"
    module = re.split(r"\W", name)[0]
    if module and _exists(f"pseudoseg_tf.datasets.{module}"):
        importlib.import_module(f"pseudoseg_tf.datasets.{module}")
    options = {"data_dir": data_dir or None, "file_format": "array_record"}
    hint = "; give the name of a builder whose files in data.data_dir are ArrayRecord or not made yet"
    builder = _ask(functools.partial(tfds.builder, name, **options), where, hint)
    missing = {"image", "label", "id"} - set(builder.info.features or ())
    class_names = (builder.info.metadata or {}).get("class_names")
    if missing or not class_names:
        lacks = f"the features {', '.join(sorted(missing))}" if missing else "class_names in its metadata"
        raise UserError(f"{where} lacks {lacks}; give a segmentation builder such as shapes_seg")
    _ask(builder.download_and_prepare, where)
    metadata = builder.info.metadata
    palette = metadata.get("palette") or voc_palette(len(class_names))
    info = DatasetInfo.from_json(
        {**metadata, "name": builder.name, "class_names": class_names, "palette": palette}
    )
    return builder, info


class TFDSSource:
    """The records of a split or part of one, in the order of the builder's files.

    Attributes:
      info: the classes.
      ids: the "id" feature of each record, as a canonical id.
      has_masks: True; the builder has masks or none of its splits could be used.
    """

    has_masks = True

    def __init__(
        self,
        info: DatasetInfo,
        builder: tfds.core.DatasetBuilder,
        split: str,
        key: str,
        *,
        need_masks: bool,
        check: bool = True,
        image_labels: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Opens the split and reads it once, for the ids and the sizes.

        Args:
          info: the classes.
          builder: prepared builder.
          split: TFDS split, such as "train", "train[:20]" or "train[20:]".
          key: the configuration key that names it, for error messages.
          need_masks: without effect, as there always are masks; the other sources ask.
          check: whether to compare sizes now; else mistakes show when records are read.
          image_labels: multi-hot image-level labels by canonical id; ids without an entry have none.

        Raises:
          UserError: no such split or an empty one, ids repeat, or image and mask differ in size.
        """
        where = f"{key}={split}"
        self.info = info
        self._image_labels = image_labels or {}
        if not _ask(lambda: builder.info.splits[split].num_examples, where):
            raise UserError(f"{where} holds no records; give a split or part of one with at least one")
        decoders = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
        self._records = _ask(lambda: builder.as_data_source(split, decoders=decoders), where)
        ids = []
        with Progress(len(self), f"{key}: reading ids") as progress:
            for index in range(len(self)):
                record = self.read(index)
                if check:
                    image, mask = io.BytesIO(record.image), io.BytesIO(record.mask or b"")
                    check_sizes(image, f"{where} image {record.id}", mask, f"{where} mask {record.id}")
                ids.append(record.id)
                progress.update()
        check_unique(ids, where)
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        features = self._records[index]
        record_id = canonical_id(features["id"].decode("utf-8", "replace"))
        return Record(record_id, features["image"], features["label"], self._image_labels.get(record_id))


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package of data sets is not installed.
        return False


def _ask(call: Callable[[], _T], where: str, hint: str = "") -> _T:
    """Calls TFDS, whose complaints about names, splits and formats run over many lines; keeps the first."""
    try:
        return call()
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        reason = str(error.args[0] if error.args else error).strip().split("\n")[0]
        raise UserError(f"{where}: {reason or type(error).__name__}{hint}") from error
